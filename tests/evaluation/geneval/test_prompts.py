import json

import pytest

from pixelgen.data.drawing import PALETTE
from pixelgen.data.shapes import ShapesData
from pixelgen.evaluation.geneval.prompts import (
    COCO,
    COLORS,
    ObjectSpec,
    Prompt,
    find_prompts,
    geneval_prompts,
    prompts_sha256,
    read_prompts,
    shapes_prompts,
    subset_by_task,
    to_lines,
    write_prompts,
)

PUBLISHED = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


def per_task(prompts):
    tasks = [prompt.task for prompt in prompts]
    return {task: tasks.count(task) for task in dict.fromkeys(tasks)}


def test_published_file_to_the_byte():
    assert prompts_sha256(geneval_prompts()) == PUBLISHED


def test_numbers_of_the_tasks():
    counts = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
    assert per_task(geneval_prompts()) == counts
    assert len(set(geneval_prompts())) == 553
    assert tuple(PALETTE) == COLORS
    assert (len(COCO), COCO[0], COCO[-1]) == (80, "person", "toothbrush")


def test_one_prompt_of_each_task():
    first = {prompt.task: prompt for prompt in reversed(geneval_prompts())}
    relation = first["position"]
    assert relation.include[1].position in {(name, 0) for name in ("left of", "right of", "above", "below")}
    assert relation.text.endswith(relation.include[0].name)
    counting = first["counting"]
    assert (counting.exclude[0].name, counting.exclude[0].count) == (
        counting.include[0].name,
        counting.include[0].count + 1,
    )
    assert not any(wanted.name == "person" and wanted.color for p in geneval_prompts() for wanted in p.include)


def test_metadata_there_and_back(tmp_path):
    prompts = geneval_prompts()
    assert [Prompt.parse(json.loads(line)) for line in to_lines(prompts).splitlines()] == prompts
    (tmp_path / "prompts.jsonl").write_text(to_lines(prompts) + "\n")
    assert read_prompts(tmp_path / "prompts.jsonl") == prompts
    line = (
        '{"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "a photo of a red cup"}'
    )
    assert json.dumps(Prompt.parse(json.loads(line)).metadata()) == line


def test_files_without_prompts(tmp_path):
    with pytest.raises(ValueError, match="there is no file of prompts"):
        read_prompts(tmp_path / "none")
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts(path)
    for bad in ('{"tag": "colors"}', "[]", "red cup", '{"tag": "x", "include": [{"count": 1}], "prompt": "x"}'):
        path.write_text(to_lines(geneval_prompts()[:1]) + bad)
        with pytest.raises(ValueError, match=r"prompts\.jsonl, line 2: "):
            read_prompts(path)


def test_other_objects():
    prompts = write_prompts(["circle", "square"], ["red", "blue"], max_count=2)
    counts = {"single_object": 2, "two_object": 2, "counting": 2, "colors": 4, "position": 8, "color_attr": 4}
    assert per_task(prompts) == counts
    assert (
        Prompt("counting", (ObjectSpec("circle", 2),), "a photo of two circles", (ObjectSpec("circle", 3),)) in prompts
    )
    assert {prompt.text for prompt in prompts if prompt.task == "color_attr"} == {
        f"a photo of a {c} {a} and a {d} {b}"
        for a, b in (("circle", "square"), ("square", "circle"))
        for c, d in (("red", "blue"), ("blue", "red"))
    }
    assert write_prompts(["circle", "square"], seed=1) != write_prompts(["circle", "square"], seed=2)


def test_tasks_that_one_object_cannot_have():
    assert per_task(write_prompts(["circle"], ["red"], max_count=1)) == {"single_object": 1, "colors": 1}
    assert set(per_task(write_prompts(["circle", "star"], ["red"], max_count=3))) == {
        "single_object",
        "two_object",
        "counting",
        "colors",
        "position",
    }


def test_subset_by_task_takes_from_every_task():
    prompts = geneval_prompts()
    chosen = subset_by_task(prompts, 50)
    assert per_task(chosen) == {
        "single_object": 9,
        "two_object": 9,
        "counting": 8,
        "colors": 8,
        "position": 8,
        "color_attr": 8,
    }
    assert chosen == sorted(chosen, key=prompts.index)
    assert len(set(chosen)) == 50
    assert subset_by_task(prompts, 1000) == subset_by_task(prompts, None) == prompts
    assert [prompt.task for prompt in subset_by_task(prompts, 2)] == ["single_object", "two_object"]


def test_by_name_and_by_file(tmp_path):
    assert find_prompts("geneval") == geneval_prompts()
    assert find_prompts("shapes") == shapes_prompts()
    path = tmp_path / "mine.jsonl"
    path.write_text(to_lines(geneval_prompts()[3:5]))
    assert find_prompts(str(path)) == geneval_prompts()[3:5]
    with pytest.raises(ValueError, match="no file of prompts circles"):
        find_prompts("circles")


def test_shapes_are_those_of_the_data():
    data = ShapesData(shapes=["ring", "heart"], colors=["red", "blue"], max_objects=2, captions=True)
    prompts = find_prompts("shapes", data)
    assert {wanted.name for prompt in prompts for wanted in prompt.include} == {"ring", "heart"}
    assert max(wanted.count for prompt in prompts for wanted in prompt.include) == 2
    assert find_prompts("geneval", data) == geneval_prompts()
