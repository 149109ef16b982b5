import json

import pytest
from PIL import Image

from painter import PROMPTS, painted
from pixelgen.evaluation.geneval.folder import Sample, find_samples, judge_samples, lay_out, sample_path
from pixelgen.evaluation.geneval.shapes import ShapesDetector

CHOSEN = list(PROMPTS.values())[::40]


def fill(folder, sizes=(32, 32, 64)):
    """Images of every prompt, that of the first seed right."""
    lay_out(folder, CHOSEN)
    for number, prompt in enumerate(CHOSEN):
        (folder / f"{number:05d}/samples").mkdir()
        for seed, size in enumerate(sizes):
            image = painted(prompt, size).permute(1, 2, 0).numpy() if seed == 0 else None
            picture = Image.new("RGB", (size, size), (135, 135, 135)) if image is None else Image.fromarray(image)
            picture.save(folder / sample_path(number, seed))
        Image.new("RGB", (96, 32)).save(folder / f"{number:05d}/grid.png")


def test_layout_is_the_originals(tmp_path):
    fill(tmp_path)
    assert sample_path(3, 2) == "00003/samples/0002.png"
    assert json.loads((tmp_path / "00001/metadata.jsonl").read_text()) == CHOSEN[1].metadata()
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "00000/samples/.0007.png.unfinished").write_text("")
    (tmp_path / "00000/samples/grid.png").write_text("")
    found = find_samples(tmp_path)
    assert found[:4] == [
        *(Sample(sample_path(0, seed), CHOSEN[0]) for seed in range(3)),
        Sample(sample_path(1, 0), CHOSEN[1]),
    ]
    assert len(found) == 3 * len(CHOSEN)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_verdicts_on_images_of_several_sizes(tmp_path, batch_size):
    fill(tmp_path)
    batches = [*judge_samples(ShapesDetector(), tmp_path, find_samples(tmp_path), batch_size=batch_size)]
    records = [record for batch in batches for record in batch]
    assert max(map(len, batches)) <= batch_size
    assert [record["correct"] for record in records] == [True, False, False] * len(CHOSEN)
    assert [record["filename"] for record in records] == [sample.path for sample in find_samples(tmp_path)]
    assert records[0]["tag"] == "single_object"
    assert records[1]["reason"].startswith("wanted 1 ")
    assert json.loads(records[-1]["metadata"]) == CHOSEN[-1].metadata()


def test_laying_out_again_is_nothing_new_but_other_prompts_are_refused(tmp_path):
    lay_out(tmp_path, CHOSEN)
    lay_out(tmp_path, CHOSEN)
    with pytest.raises(ValueError, match="is that of another prompt than"):
        lay_out(tmp_path, CHOSEN[1:])


def test_what_is_missing_or_damaged(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="holds no images in GenEval's layout"):
            find_samples(folder)
    fill(tmp_path)
    (tmp_path / sample_path(0, 0)).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0000\.png is no image"):
        [*judge_samples(ShapesDetector(), tmp_path, find_samples(tmp_path))]
    (tmp_path / "00000/metadata.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"metadata\.jsonl is missing or damaged"):
        find_samples(tmp_path)
