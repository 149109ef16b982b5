import json

import pytest

from golden_files import FOLDER
from pixelgen.evaluation.geneval.prompts import ObjectSpec, Prompt
from pixelgen.evaluation.geneval.rules import DetectedObject, confident, judge_objects, relations
from pixelgen.evaluation.geneval.score import geneval_scores

GOLDEN = json.loads((FOLDER / "geneval_cases.json").read_text())


def verdict_of(case):
    objects = [
        DetectedObject(name, tuple(box), confidence, color)
        for name, boxes in case["detections"].items()
        for (*box, confidence), color in zip(boxes, case["colors"][name], strict=True)
    ]
    return judge_objects(Prompt.parse(case["metadata"]), objects, lambda group: [thing.source for thing in group])


@pytest.mark.parametrize("number", range(len(GOLDEN["cases"])))
def test_golden_case(number):
    case = GOLDEN["cases"][number]
    verdict = verdict_of(case)
    assert verdict.correct == case["expected_correct"], (verdict.reasons, case["expected_reason"])
    assert len(verdict.reasons) == len(case["expected_reason"].splitlines())


def test_golden_summary():
    cases = GOLDEN["cases"]
    found = geneval_scores(
        [Prompt.parse(case["metadata"]) for case in cases], [verdict_of(case).correct for case in cases]
    )
    expected = GOLDEN["summary"]
    assert found.pop("overall") == pytest.approx(expected["overall"], abs=1e-12)
    assert found.pop("images") == pytest.approx(expected["images"], abs=1e-12)
    assert found.pop("prompts") == pytest.approx(expected["prompts"], abs=1e-12)
    assert found == pytest.approx({f"task/{task}": value for task, value in expected["tasks"].items()}, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (40, 0, 50, 10), {"left of"}),
        ((40, 0, 50, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 0, 10, 10), (0, 40, 10, 50), {"above"}),
        ((0, 40, 10, 50), (0, 0, 10, 10), {"below"}),
        ((0, 0, 10, 10), (40, 40, 50, 50), {"left of", "above"}),
        ((0, 0, 10, 10), (2, 2, 12, 12), set()),  # offset 2 in both directions, all of it slack
        ((0, 0, 10, 10), (4, 4, 14, 14), set()),  # 2 of 5.66: 0.35 each
        ((0, 0, 10, 10), (0, 0, 10, 10), set()),
        ((0, 0, 10, 10), (4.0, 0, 14.0, 10), set()),  # 2 of 4: exactly one half
        ((0, 0, 10, 10), (4.1, 0, 14.1, 10), {"left of"}),
    ],
)
def test_relations(a, b, expected):
    assert relations(a, b) == expected


def test_thresholds_and_order():
    things = [DetectedObject("cup", (0, 0, 1, 1), confidence) for confidence in (0.2, 0.3, 0.31, 0.95, 0.9, 0.5)]
    assert [thing.confidence for thing in confident(things, "cup", "colors")] == [0.95, 0.9, 0.5, 0.31]
    assert [thing.confidence for thing in confident(things, "cup", "counting")] == [0.95]
    assert confident(things, "fork", "colors") == []
    assert len(confident(things[3:4] * 20, "cup", "counting")) == 16


def test_colours_are_only_asked_where_they_matter():
    asked = []

    def color_of(group):
        asked.append([thing.name for thing in group])
        return ["red"] * len(group)

    prompt = Prompt("color_attr", (ObjectSpec("cup", color="red"), ObjectSpec("fork", color="blue")), "")
    judge_objects(prompt, [DetectedObject("cup", (0, 0, 1, 1), 0.9)] * 3, color_of)
    assert asked == [["cup"]]  # one of three, as wanted, and no fork


def test_reasons_say_what_was_found():
    prompt = Prompt("position", (ObjectSpec("cup", color="red"), ObjectSpec("fork", position=("above", 0))), "")
    things = [DetectedObject("cup", (0, 0, 10, 10), 0.9), DetectedObject("fork", (0, 40, 10, 50), 0.9)]
    verdict = judge_objects(prompt, things, lambda group: ["red"])
    assert verdict.reasons == ("wanted fork above cup, found below",)
    verdict = judge_objects(prompt, things, lambda group: ["blue"])
    assert verdict.reasons == ("wanted 1 red cup, found blue", "nothing there for fork to be above")
