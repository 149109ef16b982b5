"""Verdicts are found again for the same image, prompt and detector, and for nothing else."""

import json

import pytest
from PIL import Image

from painter import PROMPTS
from pixelgen.evaluation.geneval.folder import find_samples, judge_samples, lay_out, sample_path
from pixelgen.evaluation.geneval.journal import Journal
from pixelgen.evaluation.geneval.shapes import ShapesDetector

CHOSEN = list(PROMPTS.values())[:3]


@pytest.fixture
def samples(tmp_path):
    lay_out(tmp_path, CHOSEN)
    for number in range(3):
        path = tmp_path / sample_path(number, 0)
        path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), (135, 135, 135)).save(path)
    return find_samples(tmp_path)


def test_verdicts_are_found_again(samples, tmp_path):
    detector = ShapesDetector()
    (records,) = judge_samples(detector, tmp_path, samples)
    for rank in (0, 1):
        assert Journal(tmp_path, detector, rank).known(samples) == records[:rank]
        Journal(tmp_path, detector, rank).add(records[rank : rank + 1])
    with (tmp_path / ".verdicts-1.jsonl").open("a") as file:
        file.write('\n{"detector": "half a li')
    assert Journal(tmp_path, detector).known(samples) == records[:2]
    Journal(tmp_path, detector, 1).add(records[2:])
    assert Journal(tmp_path, detector).known(samples) == records
    Journal(tmp_path, detector).clear()
    assert Journal(tmp_path, detector).known(samples) == []


def test_what_was_not_judged_so_is_judged_anew(samples, tmp_path):
    detector = ShapesDetector()
    (records,) = judge_samples(detector, tmp_path, samples)
    Journal(tmp_path, detector).add(records)
    renamed = ShapesDetector()
    renamed.protocol = {"detector": "another"}
    for other in (renamed, ShapesDetector(["circle", "square"])):
        assert Journal(tmp_path, other).known(samples) == []
    Image.new("RGB", (32, 32)).save(tmp_path / samples[0].path)
    (tmp_path / "00001/metadata.jsonl").write_text(json.dumps(CHOSEN[2].metadata()))
    assert Journal(tmp_path, detector).known(find_samples(tmp_path)) == records[2:]
