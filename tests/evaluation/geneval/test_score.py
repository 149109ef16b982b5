from pixelgen.evaluation.geneval.prompts import ObjectSpec, Prompt
from pixelgen.evaluation.geneval.score import geneval_scores

CUP, FORK, CUPS = (
    Prompt("single_object", (ObjectSpec("cup"),), "a cup"),
    Prompt("single_object", (ObjectSpec("fork"),), "a fork"),
    Prompt("counting", (ObjectSpec("cup", 2),), "two cups"),
)
EXPECTED = {"overall": 0.375, "task/single_object": 0.75, "task/counting": 0.0, "images": 0.5, "prompts": 2 / 3}


def test_by_hand():
    prompts = [CUP, CUP, FORK, FORK, CUPS, CUPS]
    assert geneval_scores(prompts, [True, False, True, True, False, False]) == EXPECTED
