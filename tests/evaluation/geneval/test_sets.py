import pytest

from pixelgen.data.shapes import ShapesData
from pixelgen.evaluation.geneval.prompts import geneval_prompts, to_lines
from pixelgen.evaluation.geneval.sets import find_prompts
from pixelgen.evaluation.geneval.shapes import shapes_prompts


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
