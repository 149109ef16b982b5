import json
from collections import Counter

import pytest
import torch

from painter import PROMPTS, Painter, painted
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.scores import GenEval
from pixelgen.callbacks.summary import Summary, scores
from pixelgen.data.shapes import ShapesData
from pixelgen.evaluation.geneval import ShapesDetector
from pixelgen.evaluation.geneval.prompts import geneval_prompts, prompts_sha256, to_lines
from pixelgen.models import JiT
from pixelgen.module import PixelGen
from tiny_run import tiny_trainer

SIZES = {"patch_size": 16, "hidden_size": 16, "depth": 1, "num_heads": 2, "in_context_len": 0}
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def fit(folder, *callbacks, module=None, **options):
    module = Painter() if module is None else module
    trainer = tiny_trainer(folder, list(callbacks), **options)
    trainer.fit(module, ShapesData(batch_size=4, length=16, val_length=4, max_objects=4, captions=True))
    return trainer, module


def test_painter_is_right_about_every_prompt():
    prompts = list(PROMPTS.values())
    images = torch.stack([painted(prompt) for prompt in prompts])
    verdicts = ShapesDetector().judge(images, prompts)
    assert [(p.text, v.reasons) for p, v in zip(prompts, verdicts, strict=True) if not v.correct] == []


@pytest.mark.parametrize("batch_size", [5, 64])
def test_scores_of_a_model_that_is_right_for_even_seeds(tmp_path, batch_size):
    callback = GenEval(ShapesDetector(), "shapes", 12, images_per_prompt=3, batch_size=batch_size)
    trainer, module = fit(tmp_path, EMA([0.5]), callback)
    expected = {f"geneval/{task}": 2 / 3 for task in TASKS}
    expected |= {"geneval/overall": 2 / 3, "geneval/images": 2 / 3, "geneval/prompts": 1.0}
    logged = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("geneval/")}
    assert logged == pytest.approx(expected)
    assert callback.history == [{"step": 6, **{name: pytest.approx(value) for name, value in expected.items()}}]
    assert Counter(seed for _, seed in module.asked) == {0: 12, 1: 12, 2: 12}
    assert Counter(PROMPTS[text].task for text, _ in module.asked) == dict.fromkeys(TASKS, 6)


def test_protocol_is_recorded(tmp_path):
    fit(tmp_path, EMA([0.5]), GenEval(ShapesDetector(), "shapes", None, 2, every_n_steps=3, seed=1))
    first, second = map(json.loads, (tmp_path / "evaluations.jsonl").read_text().splitlines())
    assert (first.pop("step"), second.pop("step")) == (3, 6)
    assert first == second
    assert first["geneval/overall"] == 0.5
    about = {
        "prompts": len(PROMPTS),
        "prompts_sha256": prompts_sha256(list(PROMPTS.values())),
        "seeds": [1, 2],
        "average": "0.5",
        "sampler": Painter().sampler.settings(),
        "detector": "shapes judge",
    }
    assert about.items() <= first.items()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_images(world_size, monkeypatch):
    callback = GenEval(ShapesDetector(), "shapes", 7, 1, batch_size=2)
    callback._chosen = list(PROMPTS.values())[:7]
    asked, verdicts, calls = [], [], []

    def gather(own):
        verdicts.extend(own)
        return [(number, True) for number in range(7)]  # what all of them say together

    monkeypatch.setattr("pixelgen.callbacks.scores.gather", gather)
    for rank in range(world_size):
        model = Painter()
        assert callback._score(model, rank, world_size)["images"] == 1.0
        asked += model.asked
        calls.append(len(model.asked))
    assert sorted(verdicts) == [(number, True) for number in range(7)]  # each judged once
    assert {text for text, _ in asked} == {prompt.text for prompt in callback._chosen}


def test_training_does_not_notice(tmp_path):
    _, plain = fit(tmp_path)
    _, scored = fit(tmp_path, GenEval(ShapesDetector(), "shapes", 6, every_n_steps=1, at_start=True))
    assert len(plain.losses) == 6
    assert plain.losses == scored.losses


def test_summary_shows_it(tmp_path):
    trainer, _ = fit(tmp_path, GenEval(ShapesDetector(), "shapes", 6, at_start=True), Summary())
    assert ("geneval/overall", "1 (step 0)", "1 (step 6)") in scores(trainer)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="num_prompts is 0: give a whole number of at least 1"):
        GenEval(ShapesDetector(), num_prompts=0)
    with pytest.raises(ValueError, match="give the model a text_encoder"):
        fit(
            tmp_path,
            GenEval(ShapesDetector(), "shapes"),
            module=PixelGen(JiT(32, num_classes=None, **SIZES)),
        )
    with pytest.raises(ValueError, match="knows no object"):
        fit(tmp_path, GenEval(ShapesDetector()))
    (tmp_path / "prompts.jsonl").write_text(to_lines(geneval_prompts()[:3]))
    with pytest.raises(ValueError, match="knows no object"):
        fit(tmp_path, GenEval(ShapesDetector(), str(tmp_path / "prompts.jsonl")))
