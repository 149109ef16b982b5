"""Two processes give what one gives with the same global batch, and take over each other's checkpoints."""

import csv
import json
import shutil

import pytest
import torch

from pixelgen.runs import read_checkpoint
from processes import fit

TOLERANCE = 2e-6  # float32 sums in another order


def contents(folder):
    """Everything numeric that a run leaves behind."""
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    weights = checkpoint["state_dict"]
    averages = checkpoint["callbacks"]["EMA"]["averages"]
    moments = checkpoint["optimizer_states"][0]["state"]
    found = {f"weights/{key}": value for key, value in weights.items()}
    found |= {f"{name}/{key}": value for name, average in averages.items() for key, value in average.items()}
    found |= {f"moments/{i}/{key}": torch.as_tensor(v) for i, state in moments.items() for key, v in state.items()}
    return checkpoint["global_step"], found


def logged(folder, version=0):
    with (folder / "logs" / f"version_{version}" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [n for n in rows[0] if n.startswith(("loss", "gate", "grad", "adaptive", "skipped", "frechet"))]
    return {(row["step"], name): float(row[name]) for row in rows for name in names if row[name]}


def assert_equal(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    differences = {key: float((one[1][key].float() - other[1][key].float()).abs().max()) for key in one[1]}
    assert max(differences.values()) < TOLERANCE, max(differences, key=differences.get)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel") / "one"
    fit("one", folder)
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(one, tmp_path, strategy):
    two = tmp_path / strategy
    fit(strategy, two)
    assert_equal(contents(one), contents(two))
    losses, others = logged(one), logged(two)
    assert losses.keys() == others.keys()
    assert len({name for _, name in losses}) == 10
    assert [others[key] for key in losses] == pytest.approx(list(losses.values()), rel=1e-5)
    assert losses["3", "adaptive_weight"] != 1
    scores = [json.loads((folder / "evaluations.jsonl").read_text())["frechet/means"] for folder in (one, two)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    for picture in (one / "previews").iterdir():
        assert picture.read_bytes() == (two / "previews" / picture.name).read_bytes()


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Runs that were stopped after half of their steps, by strategy; made when first asked for."""
    folder, made = tmp_path_factory.mktemp("halves"), set()

    def half(strategy):
        if strategy not in made:
            fit(strategy, folder / strategy, "--trainer.max_steps", "2")
            made.add(strategy)
        return folder / strategy

    return half


@pytest.mark.parametrize(
    ("former", "latter"),
    [
        ("one", "fsdp"),
        ("fsdp", "ddp"),
        ("ddp", "one"),
        pytest.param("fsdp", "one", marks=pytest.mark.slow),
        pytest.param("one", "ddp", marks=pytest.mark.slow),
        pytest.param("ddp", "fsdp", marks=pytest.mark.slow),
        pytest.param("fsdp", "fsdp", marks=pytest.mark.slow),
    ],
)
def test_each_resumes_what_another_has_begun(one, halves, tmp_path, former, latter):
    folder = tmp_path / "run"
    shutil.copytree(halves(former), folder)
    fit(latter, folder, "--ckpt_path", "last")
    assert_equal(contents(one), contents(folder))
    losses, others = logged(one), logged(folder, version=1)
    assert {step for step, _ in others} == {"2", "3", "4"}
    assert [others[key] for key in others] == pytest.approx([losses[key] for key in others], rel=1e-5)
