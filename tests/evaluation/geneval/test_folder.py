import json

import pytest
from PIL import Image

from painter import PROMPTS, painted
from pixelgen.evaluation.geneval.detectors import ShapesDetector
from pixelgen.evaluation.geneval.folder import (
    GeneratedImage,
    VerdictLog,
    find_images,
    image_path,
    judge_images,
    write_metadata,
)

CHOSEN = list(PROMPTS.values())[::40]
THREE = list(PROMPTS.values())[:3]


def fill(folder, sizes=(32, 32, 64)):
    """Images of every prompt, that of the first seed right."""
    write_metadata(folder, CHOSEN)
    for number, prompt in enumerate(CHOSEN):
        (folder / f"{number:05d}/samples").mkdir()
        for seed, size in enumerate(sizes):
            image = painted(prompt, size).permute(1, 2, 0).numpy() if seed == 0 else None
            picture = Image.new("RGB", (size, size), (135, 135, 135)) if image is None else Image.fromarray(image)
            picture.save(folder / image_path(number, seed))
        Image.new("RGB", (96, 32)).save(folder / f"{number:05d}/grid.png")


def test_layout_is_the_originals(tmp_path):
    fill(tmp_path)
    assert image_path(3, 2) == "00003/samples/0002.png"
    assert json.loads((tmp_path / "00001/metadata.jsonl").read_text()) == CHOSEN[1].metadata()
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "00000/samples/.0007.png.unfinished").write_text("")
    (tmp_path / "00000/samples/grid.png").write_text("")
    found = find_images(tmp_path)
    assert found[:4] == [
        *(GeneratedImage(image_path(0, seed), CHOSEN[0]) for seed in range(3)),
        GeneratedImage(image_path(1, 0), CHOSEN[1]),
    ]
    assert len(found) == 3 * len(CHOSEN)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_verdicts_on_images_of_several_sizes(tmp_path, batch_size):
    fill(tmp_path)
    batches = []

    class Counts(ShapesDetector):
        def judge(self, images, prompts):
            batches.append(len(images))
            return super().judge(images, prompts)

    records = [*judge_images(Counts(), tmp_path, find_images(tmp_path), batch_size=batch_size)]
    assert max(batches) <= batch_size
    assert [record["correct"] for record in records] == [True, False, False] * len(CHOSEN)
    assert [record["filename"] for record in records] == [sample.path for sample in find_images(tmp_path)]
    assert records[0]["tag"] == "single_object"
    assert records[1]["reason"].startswith("wanted 1 ")
    assert json.loads(records[-1]["metadata"]) == CHOSEN[-1].metadata()


def test_laying_out_again_is_nothing_new_but_other_prompts_are_refused(tmp_path):
    write_metadata(tmp_path, CHOSEN)
    write_metadata(tmp_path, CHOSEN)
    with pytest.raises(ValueError, match="is that of another prompt than"):
        write_metadata(tmp_path, CHOSEN[1:])


def test_what_is_missing_or_damaged(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="holds no images in GenEval's layout"):
            find_images(folder)
    fill(tmp_path)
    (tmp_path / image_path(0, 0)).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0000\.png is no image"):
        [*judge_images(ShapesDetector(), tmp_path, find_images(tmp_path))]
    (tmp_path / "00000/metadata.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"metadata\.jsonl is missing or damaged"):
        find_images(tmp_path)


@pytest.fixture
def samples(tmp_path):
    write_metadata(tmp_path, THREE)
    for number in range(3):
        path = tmp_path / image_path(number, 0)
        path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), (135, 135, 135)).save(path)
    return find_images(tmp_path)


def test_verdicts_are_found_again(samples, tmp_path):
    detector = ShapesDetector()
    records = [*judge_images(detector, tmp_path, samples)]
    for rank in (0, 1):
        assert VerdictLog(tmp_path, detector, rank).known(samples) == records[:rank]
        VerdictLog(tmp_path, detector, rank).add(records[rank])
    with (tmp_path / ".verdicts-1.jsonl").open("a") as file:
        file.write('\n{"detector": "half a li')
    assert VerdictLog(tmp_path, detector).known(samples) == records[:2]
    VerdictLog(tmp_path, detector, 1).add(records[2])
    assert VerdictLog(tmp_path, detector).known(samples) == records
    VerdictLog(tmp_path, detector).clear()
    assert VerdictLog(tmp_path, detector).known(samples) == []


def test_what_was_not_judged_so_is_judged_anew(samples, tmp_path):
    detector = ShapesDetector()
    records = [*judge_images(detector, tmp_path, samples)]
    for record in records:
        VerdictLog(tmp_path, detector).add(record)
    renamed = ShapesDetector()
    renamed.protocol = {"detector": "another"}
    for other in (renamed, ShapesDetector(["circle", "square"])):
        assert VerdictLog(tmp_path, other).known(samples) == []
    Image.new("RGB", (32, 32)).save(tmp_path / samples[0].path)
    (tmp_path / "00001/metadata.jsonl").write_text(json.dumps(THREE[2].metadata()))
    assert VerdictLog(tmp_path, detector).known(find_images(tmp_path)) == records[2:]
