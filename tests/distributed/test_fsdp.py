"""Two processes give what one gives with the same global batch, and take over each other's checkpoints."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pixelgen
from pixelgen.distributed.fsdp import FSDP, check_synchronised, refuse_unsupported, shard
from pixelgen.fit import main
from pixelgen.models import JiT
from pixelgen.runs.shards import is_sharded, read_shards
from processes import fit

TOLERANCE = 2e-6  # float32 sums in another order


def contents(folder):
    """Everything numeric that a run leaves behind."""
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = read_shards(path) if is_sharded(path) else torch.load(path, weights_only=True)
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


@pytest.mark.slow
def test_two_processes_equal_one_in_text(tmp_path):
    overlay = ["--config", str(Path(__file__).parents[1] / "parallel_text.yaml")]
    for strategy in ("one", "ddp", "fsdp"):
        fit(strategy, tmp_path / strategy, *overlay)
    for strategy in ("ddp", "fsdp"):
        assert_equal(contents(tmp_path / "one"), contents(tmp_path / strategy))
        for picture in (tmp_path / "one" / "previews").iterdir():
            assert picture.read_bytes() == (tmp_path / strategy / "previews" / picture.name).read_bytes()


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
        pytest.param("one", "fsdp", marks=pytest.mark.slow),
        pytest.param("fsdp", "ddp", marks=pytest.mark.slow),
        pytest.param("ddp", "one", marks=pytest.mark.slow),
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


@pytest.mark.slow
def test_checkpoints_in_shards(one, tmp_path, capsys):
    folder, shards = tmp_path / "run", ["--trainer.strategy.save_distributed_checkpoint", "true"]
    fit("fsdp", folder, "--trainer.max_steps", "2", *shards)
    fit("fsdp", folder, "--ckpt_path", "last", *shards)
    last = folder / "checkpoints" / "last.ckpt"
    assert last.is_dir()
    assert last.resolve().name == "step_0000004.ckpt"
    for ema in (False, "0.5", "width0.10"):
        whole, split = (pixelgen.load(run, ema, "cpu").denoiser.state_dict() for run in (one, folder))
        assert max(float((whole[key] - split[key]).abs().max()) for key in whole) < TOLERANCE
    with pytest.raises(SystemExit):
        main(["--ckpt_path", str(folder), "--trainer.strategy", "auto", "--trainer.devices", "1"])
    assert "is in shards, which FSDP2 alone resumes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("option", ["checkpoint_blocks", "compile_blocks"])
def test_blocks_are_recomputed_and_compiled_under_fsdp(one, tmp_path, option):
    fit("fsdp", tmp_path / "two", f"--model.{option}", "true")
    assert_equal(contents(one), contents(tmp_path / "two"))


@pytest.fixture(scope="module", params=[0, 2], ids=["0 workers", "2 workers"])
def workers(request, tmp_path_factory):
    """Options with that many workers, and a run of three epochs that was never stopped."""
    folder = tmp_path_factory.mktemp("workers") / "whole"
    options = ["--data.length", "32", "--data.num_workers", str(request.param), "--trainer.max_steps", "6"]
    fit("one", folder, *options)
    return options, folder


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 4])  # in the middle and at the end of the second epoch
def test_resuming_is_bit_equal_with_workers_and_accumulation(workers, tmp_path, step):
    options, whole = workers
    fit("one", tmp_path / "run", *options, "--trainer.max_steps", str(step))
    fit("one", tmp_path / "run", *options, "--ckpt_path", "last")
    reached, found = contents(tmp_path / "run")
    expected, values = contents(whole)
    assert reached == expected == 6
    assert [key for key in values if not values[key].equal(found[key])] == []


def test_fsdp1_is_refused():
    with pytest.raises(ValueError, match=r"FSDPStrategy is not supported: use FSDP2, .*overlay/fsdp.yaml"):
        refuse_unsupported(FSDPStrategy())
    refuse_unsupported(FSDP())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_weights_that_are_not_in_float32_are_refused(precision):
    trainer = Trainer(precision=precision, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=rf"^trainer\.precision {precision} would keep weights"):
        refuse_unsupported(trainer.strategy)


@pytest.fixture
def group(tmp_path):
    """A process group of one; runs in this process may have left theirs."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def optimizer_of(*modules):
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.1)


def test_parameters_that_nothing_synchronises_are_named(group):
    model, extra = nn.ModuleDict({"denoiser": nn.Linear(2, 2)}), nn.Linear(3, 1)
    strategy = SingleDeviceStrategy()
    strategy.model = DistributedDataParallel(model)
    check_synchronised(model, [optimizer_of(model)], strategy)
    with pytest.raises(ValueError, match=r"shape \(1, 3\) outside of the module, .* in `__init__`"):
        check_synchronised(model, [optimizer_of(model, extra)], strategy)
    model["late"] = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"synchronises the gradients of late.weight, late.bias: create"):
        check_synchronised(model, [optimizer_of(model)], strategy)
    with pytest.raises(
        ValueError, match=r"gradients of denoiser.weight, denoiser.bias, late.weight and 1 more: .*fully"
    ):
        check_synchronised(model, [optimizer_of(model)], FSDP())
    strategy.model = model  # one process: nothing to synchronise
    check_synchronised(model, [optimizer_of(model)], strategy)


def small(**options):
    sizes = {"hidden_size": 16, "depth": 2, "num_heads": 2, "bottleneck_dim": None, "in_context_start": 1}
    return JiT(input_size=8, patch_size=4, num_classes=3, **sizes, **options)


def test_a_denoiser_on_the_meta_device_gets_weights_when_it_is_split(group):
    with torch.device("meta"):
        denoiser = small()
    shard(denoiser, [], group)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    x_hat, _ = denoiser.forward_with_features(x, t, torch.tensor([0, 3]), 1)
    x_hat.square().mean().backward()
    assert x_hat.isfinite().all()
    assert all(value.isfinite().all() for value in denoiser.state_dict().values())
    assert float(denoiser.y_embedder.embedding_table.weight.full_tensor().std()) == pytest.approx(0.02, rel=0.3)


def test_frozen_parameters_are_refused_under_fsdp(group):
    denoiser = small()
    denoiser.final_layer.linear.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"final_layer.linear.bias is frozen: make it a buffer"):
        shard(denoiser, [], group)


def test_buffers_that_would_stay_empty_are_refused_under_fsdp(group):
    denoiser = small()
    denoiser.register_buffer("table", torch.ones(2), persistent=False)
    with pytest.raises(ValueError, match=r"every buffer must be persistent, but table is not in the state dict"):
        shard(denoiser, [], group)


def test_a_gate_that_passes_on_some_processes_only_does_not_stop_the_others(tmp_path):
    """The adaptive weight takes gradients, for which FSDP2 exchanges weights: all processes must make them."""
    gated = ["--model.objective.pdino.gated", "true", "--model.objective.gate.threshold", "0.5"]
    only = ["--model.objective.lpips", "null", "--callbacks.fid", "null", "--callbacks.preview", "null"]
    length = ["--trainer.max_steps", "60", "--trainer.accumulate_grad_batches", "1"]
    fit("fsdp", tmp_path / "run", *gated, *only, *length)
    passed = {float(value) for (_, name), value in logged(tmp_path / "run").items() if name == "gate/passed"}
    assert 0.125 in passed  # one sample of eight: it is on one of the two processes
