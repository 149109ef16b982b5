"""Which sets a sweep makes, and which of its combinations are the same images."""

import re

import pytest

from pixelgen.evaluation.sweep import rows
from pixelgen.flow import Heun

OWN = Heun(num_steps=10, shift=2.0, exact=False)


def columns(*arguments):
    return [tuple(row.columns().values()) for row in rows(OWN, *arguments)]


def test_every_combination_averages_outermost():
    assert columns(["raw", "0.9"], ["Heun", "Euler"], [5], [2.0], ["0-1"]) == [
        (ema, sampler, 5, 2.0, 2.0, "0-1") for ema in ("raw", "0.9") for sampler in ("Heun", "Euler")
    ]


def test_what_is_not_swept_is_as_in_the_runs_sampler():
    (row,) = rows(OWN, [True], [], [], [3.0], [])
    assert row.sampler.settings() == {
        "class": "Heun", "num_steps": 10, "shift": 2.0, "guidance": 3.0, "guidance_min": 0.0, "guidance_max": 1.0,
        "t_eps": 0.05, "exact": False,
    }  # fmt: skip
    (row,) = rows(OWN, [True], ["AdamsBashforth"], [], [], [])
    assert row.sampler.settings()["shift"] == 2.0
    assert row.columns()["num_steps"] == 10


def test_unguided_sets_and_intervals_with_the_same_steps_are_made_once():
    # times of 10 steps, shift 2: 0, 0.053, 0.111, 0.176, 0.25, 0.333, 0.429, 0.538, 0.667, 0.818
    same = (
        "guidance 1 on 0.1-0.9 as guidance 1 on 0-1; guidance 1 on 0.08-0.85 as guidance 1 on 0-1; guidance 1 on "
        "0.96-0.97 as guidance 1 on 0-1; guidance 2 on 0.08-0.85 as guidance 2 on 0.1-0.9; guidance 2 on 0.96-0.97 as "
        "guidance 1 on 0-1"
    )
    with pytest.warns(UserWarning, match=f"^the same images, which are made once: {re.escape(same)}$"):
        found = columns(["raw"], [], [], [1.0, 2.0], ["0-1", "0.1-0.9", "0.08-0.85", "0.96-0.97"])
    assert [values[4:] for values in found] == [(1.0, ""), (2.0, "0-1"), (2.0, "0.1-0.9")]


def test_a_row_without_a_guided_step_is_told_though_it_is_the_only_one():
    with pytest.warns(UserWarning, match=r"made once: guidance 3 on 0.96-0.97 as guidance 1 on 0-1"):
        assert columns(["raw"], [], [], [3.0], ["0.96-0.97"]) == [("raw", "Heun", 10, 2.0, 1.0, "")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["raw"], [], [], [2.0], ["0.1"]), r"'0.1' is no interval: write its ends as in 0.1-0.9"),
        ((["raw"], [], [], [2.0], ["0.9-0.1"]), r"guidance interval 0.9 to 0.1 is empty"),
        ((["raw"], ["Hun"], [], [], []), r"there is no class 'Hun': did you mean Heun\?"),
        ((["raw"], [], [0], [], []), r"num_steps is 0: give a whole number of at least 1"),
    ],
)
def test_what_is_no_sampler_is_told(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        rows(OWN, *arguments)
