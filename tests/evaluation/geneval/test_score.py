import pytest
import torch

from pixelgen.evaluation.geneval.prompts import Prompt, Wanted
from pixelgen.evaluation.geneval.score import GenEvalScore, scores

CUP, FORK, CUPS = (
    Prompt("single_object", (Wanted("cup"),), "a cup"),
    Prompt("single_object", (Wanted("fork"),), "a fork"),
    Prompt("counting", (Wanted("cup", 2),), "two cups"),
)
EXPECTED = {"overall": 0.375, "task/single_object": 0.75, "task/counting": 0.0, "images": 0.5, "prompts": 2 / 3}


def test_by_hand():
    prompts = [CUP, CUP, FORK, FORK, CUPS, CUPS]
    assert scores(prompts, [True, False, True, True, False, False]) == EXPECTED


def test_two_processes_make_one_score():
    ranks = [GenEvalScore([CUP, CUP, FORK, FORK, CUPS, CUPS]) for _ in range(2)]
    ranks[0].update([0, 2], [True, True])
    ranks[1].update([1, 3], [False, True])
    ranks[1].update([5], [False])
    whole = GenEvalScore(ranks[0].prompts, dist_sync_fn=lambda state, group: [r.right for r in ranks])
    whole._to_sync, whole.distributed_available_fn = True, lambda: True
    whole.update([], [])
    assert whole.compute() == EXPECTED
    assert torch.equal(whole.right, torch.zeros(6, dtype=torch.long))  # as before


def test_nothing_to_score():
    with pytest.raises(ValueError, match="no image to score"):
        GenEvalScore([])
