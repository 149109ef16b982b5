import json
import os
import shutil
import subprocess
import sys

import pytest

from painter import PROMPTS, Painted, Painter
from pixelgen.conditioner import Unconditional
from pixelgen.evaluation.geneval.detectors import ShapesDetector
from pixelgen.evaluation.geneval.folder import find_images
from pixelgen.evaluation.geneval.prompts import geneval_prompts, prompts_sha256, to_lines
from pixelgen.evaluation.geneval.score import NOTE, SHAPES_NOTE, protocol_sentence
from pixelgen.geneval import geneval, main
from pixelgen.runs.run import Run
from test_text_runs import text_run
from tiny_transformers import tiny_clip, tiny_mask2former

FEW = list(PROMPTS.values())[::30]


@pytest.fixture
def painter(tmp_path, monkeypatch):
    """A run of a model that is right for even seeds, in the place of `runs/painter`."""
    model = Painter()
    data = {"class_path": "pixelgen.data.shapes.ShapesData", "init_args": {"shapes": ["star"], "max_objects": 2}}
    monkeypatch.setattr(Run, "open", lambda source: Painted(tmp_path, model, data))
    (tmp_path / "few.jsonl").write_text(to_lines(FEW))
    return model


def read(folder):
    return json.loads((folder / "geneval.json").read_text())


def test_images_scores_and_protocol(painter, tmp_path, capsys):
    folder = main(["runs/painter", "--prompts", str(tmp_path / "few.jsonl"), "--images_per_prompt", "3"])
    assert folder.parent == tmp_path / "geneval"
    assert folder.name.startswith("0.99-step7-Euler2-guidance4-")
    assert len(find_images(folder)) == 3 * len(FEW)
    assert [json.loads((folder / f"{i:05d}/metadata.jsonl").read_text()) for i in range(len(FEW))] == [
        prompt.metadata() for prompt in FEW
    ]
    report = read(folder)
    assert set(report["scores"].values()) == {2 / 3, 1.0}
    assert report["scores"]["prompts"] == 1.0
    about = report["protocol"]
    assert (about["prompts"], about["images"], about["images_per_prompt"]) == (len(FEW), 3 * len(FEW), [3, 3])
    assert about["prompts_sha256"] == prompts_sha256(FEW) == about["made_with"]["prompts_sha256"]
    assert (about["published_prompts"], about["note"]) == (False, SHAPES_NOTE)
    assert about["made_with"]["seeds"] == [0, 1, 2]
    assert about["made_with"]["sampler"]["guidance"] == 4.0
    printed = " ".join(capsys.readouterr().out.split())
    for task in report["scores"]:
        if task.startswith("task/"):
            assert f"{task.removeprefix('task/')} │ 0.6667" in printed
    assert "overall │ 0.6667" in printed
    assert "prompts with a right image │ 1.0000" in printed
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [record["correct"] for record in records] == [True, False, True] * len(FEW)


def test_the_same_command_goes_on_and_makes_nothing_twice(painter, tmp_path):
    arguments = ["runs/painter", "--prompts", str(tmp_path / "few.jsonl"), "--to", str(tmp_path / "to")]
    main([*arguments, "--generate_only"])
    assert not (tmp_path / "to/geneval.json").exists()
    made, asked = len(find_images(tmp_path / "to")), len(painter.asked)
    assert made == 4 * len(FEW)
    (tmp_path / "to/00001/samples/0002.png").unlink()
    main(arguments)
    assert len(find_images(tmp_path / "to")) == made
    assert (FEW[1].text, 2) in painter.asked[asked:]
    assert len(painter.asked) - asked <= 32  # one batch of the network
    with pytest.raises(SystemExit):
        main([*arguments, "--images_per_prompt", "2"])


def test_scores_of_an_existing_folder(painter, tmp_path, capsys):
    few = str(tmp_path / "few.jsonl")
    folder = geneval("runs/painter", prompts=few, images_per_prompt=2, generate_only=True)
    (folder / "settings.json").unlink()
    (folder / "00000/samples/0001.png").unlink()
    main([str(folder), "--score_only"])
    report = read(folder)
    assert report["protocol"]["made_with"] is None
    assert report["protocol"]["images_per_prompt"] == [1, 2]
    assert report["protocol"]["missing"] == ["00000/samples/0001.png"]
    assert report["scores"]["images"] == len(FEW) / (2 * len(FEW) - 1)
    assert "1 to 2 images; made elsewhere; detector shapes judge" in " ".join(capsys.readouterr().out.split())


def test_a_set_of_ours_that_lacks_images_is_refused(painter, tmp_path, capsys):
    folder = geneval("runs/painter", prompts=str(tmp_path / "few.jsonl"), images_per_prompt=2, generate_only=True)
    last = f"{len(FEW) - 1:05d}"
    for lose, sentence in (
        (lambda: (folder / "00001/samples/0000.png").unlink(), "lacks 1 images (00001/samples/0000.png first)"),
        (lambda: shutil.rmtree(folder / last), "lacks 3 images (00001/samples/0000.png first)"),
    ):
        lose()
        with pytest.raises(SystemExit):
            main([str(folder), "--score_only"])
        assert f"{sentence}: finish it by the command that makes it" in capsys.readouterr().err
    assert not (folder / "geneval.json").exists()
    (folder / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json is damaged"):
        geneval(folder, score_only=True)


def test_a_prompt_without_images_is_named_in_the_protocol(painter, tmp_path):
    folder = geneval("runs/painter", prompts=str(tmp_path / "few.jsonl"), images_per_prompt=2, generate_only=True)
    (folder / "settings.json").unlink()
    shutil.rmtree(folder / "00002/samples")
    shutil.rmtree(folder / "00003")
    with pytest.warns(UserWarning, match=r"lacks 4 images \(00002/samples/0000.png first\): its score is of the"):
        geneval(folder, score_only=True)
    assert read(folder)["protocol"]["missing"] == [f"0000{n}/samples/000{seed}.png" for n in (2, 3) for seed in (0, 1)]
    assert protocol_sentence(read(folder)["protocol"]).endswith("; incomplete, 4 missing")


def test_scoring_goes_on_where_it_was_stopped(painter, tmp_path, monkeypatch):
    folder = geneval("runs/painter", prompts=str(tmp_path / "few.jsonl"), generate_only=True)
    judged = []

    class Stops(ShapesDetector):
        """Is killed after a batch; the next one is not."""

        def judge(self, images, prompts):
            if len(judged) == 16:
                judged.append(None)
                raise KeyboardInterrupt
            judged.extend(prompts)
            return super().judge(images, prompts)

    with pytest.raises(KeyboardInterrupt):
        geneval(folder, score_only=True, detector=Stops())
    assert not (folder / "geneval.json").exists()
    journal = folder / ".verdicts-0.jsonl"
    journal.write_text("\n".join(reversed(journal.read_text().splitlines()[5:])))
    geneval(folder, score_only=True, detector=Stops())
    assert len(judged) == 1 + 4 + 4 * len(FEW)
    report, verdicts = read(folder), (folder / "results.jsonl").read_text()
    geneval(folder, score_only=True, detector=ShapesDetector())
    assert (read(folder), (folder / "results.jsonl").read_text()) == (report, verdicts)
    assert not list(folder.glob(".verdicts*"))


def test_published_prompts_with_networks_of_the_detectors_classes(painter, tmp_path, monkeypatch):
    """Two of the published prompts; images are enlarged to 64 px, not to 800, before they are judged."""
    monkeypatch.setattr("pixelgen.encoders.mask2former.SHORT", 64)
    monkeypatch.setattr("pixelgen.geneval.find_prompts", lambda *args: geneval_prompts()[:2])
    monkeypatch.setattr(
        painter, "sample", lambda texts, seeds, **options: Painter.sample(painter, [FEW[0].text] * len(texts), seeds)
    )
    detector = ["--detector", "CocoDetector", "--detector.mask2former", str(tiny_mask2former())]
    folder = main(["runs/painter", *detector, "--detector.clip", str(tiny_clip()), "--images_per_prompt", "1"])
    report = read(folder)
    assert report["scores"] == {"overall": 0.0, "task/single_object": 0.0, "images": 0.0, "prompts": 0.0}
    assert report["protocol"]["note"] == NOTE
    assert report["protocol"]["detector"] == str(tiny_mask2former())
    line = protocol_sentence(report["protocol"])
    assert line.startswith(f"2 prompts (not the published ones, sha256 {prompts_sha256(geneval_prompts()[:2])[:16]})")
    assert "seeds 0; average 0.99 of step 7; Euler (num_steps 2, guidance 4.0, guidance_min 0.0, " in line
    assert f"; clip {tiny_clip()}@sha256:" in line


def test_shapes_are_those_of_the_runs_data(painter, tmp_path):
    folder = geneval("runs/painter", prompts="shapes", images_per_prompt=1, generate_only=True)
    wanted = [wanted for sample in find_images(folder) for wanted in sample.prompt.include]
    assert {(thing.name, thing.count) for thing in wanted} == {("star", 1), ("star", 2)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--generate_only", "--score_only"], "leave nothing to do"),
        (["--images_per_prompt", "0"], "images_per_prompt is 0: give a whole number of at least 1"),
        (["--num_prompts", "0"], "num_prompts is 0: give a whole number of at least 1"),
        (["--score_only"], "holds no images in GenEval's layout"),
        (["--prompts", "none.jsonl"], "no file of prompts none.jsonl"),
        (["--prompt", "shapes"], "there is no option --prompt: did you mean --prompts?"),
    ],
)
def test_bad_input_is_one_line(painter, arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["runs/painter", *arguments])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_source_that_is_none_is_said_before_any_detector_is_loaded(capsys):
    with pytest.raises(SystemExit):
        main(["runs/none"])
    assert "runs/none does not exist: give a run folder" in capsys.readouterr().err


def test_a_network_without_text_is_refused(painter, tmp_path):
    painter.conditioner = Unconditional()
    with pytest.raises(ValueError, match="takes no prompts: give a text model"):
        geneval("runs/painter", prompts=str(tmp_path / "few.jsonl"))


def test_a_run_of_a_real_text_model(tmp_path, capsys):
    """Trained for a step, scored during training and by the command, with the same verdicts."""
    callback = ["--callbacks.geneval.detector", "ShapesDetector", "--callbacks.geneval.prompts", "shapes"]
    precision = ["--callbacks.ema", "null", "--callbacks.preview", "null"]
    text_run(tmp_path / "run", "--trainer.max_steps", "1", *callback, *precision)
    recorded = json.loads((tmp_path / "run/evaluations.jsonl").read_text())
    prompts = ["--prompts", "shapes", "--images_per_prompt", "1", "--num_prompts", "60", "--precision", "32-true"]
    report = read(main([str(tmp_path / "run"), *prompts, "--sampler.num_steps", "1"]))
    assert recorded["prompts"] == report["protocol"]["prompts"] == 60
    assert recorded["prompts_sha256"] == report["protocol"]["prompts_sha256"]
    made_with = report["protocol"]["made_with"]
    assert (made_with["text_encoder"]["max_length"], "model" in made_with["text_encoder"]) == (12, False)
    assert report["protocol"]["made_with"]["sampler"]["num_steps"] == 1
    assert recorded["geneval/overall"] == report["scores"]["overall"] == 0.0  # noise


@pytest.mark.slow
def test_two_processes_score_what_one_does(painter, tmp_path):
    folder = geneval("runs/painter", prompts=str(tmp_path / "few.jsonl"), images_per_prompt=3)
    expected, verdicts = read(folder), (folder / "results.jsonl").read_text()
    (folder / "geneval.json").unlink()
    command = [sys.executable, "-m", "pixelgen.geneval", str(folder), "--score_only", "--devices", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert read(folder) == expected
    assert (folder / "results.jsonl").read_text() == verdicts
    assert done.stdout.count("overall") == 1  # the other process prints nothing
