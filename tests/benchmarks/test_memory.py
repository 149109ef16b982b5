import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import UntypedStorage
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from pixelgen.models import JiT, TextJiT, jit
from pixelgen.models.rotary import rotary_table

FILE = Path(__file__).parent.parent.parent / "benchmarks" / "memory.py"
SPEC = importlib.util.spec_from_file_location("memory", FILE)
memory = sys.modules["memory"] = importlib.util.module_from_spec(SPEC)  # where its dataclass looks types up
SPEC.loader.exec_module(memory)
activation_bytes, training_memory = memory.activation_bytes, memory.training_memory
checkpoint_bytes, unsharded = memory.checkpoint_bytes, memory.unsharded

B, N, C, D, H, DEPTH = 3, 64, 4, 64, 4, 4  # images, patches, class tokens, width, heads, blocks
HIDDEN = int(4 * D * 2 / 3)
RANDOM_STATE = 24  # bytes: three integers that flash attention keeps on GPUs, for its dropout


def small(**options) -> JiT:
    settings = dict(input_size=32, patch_size=4, hidden_size=D, depth=DEPTH, num_heads=H, num_classes=7)
    return JiT(**{**settings, "bottleneck_dim": 16, "in_context_len": C, "in_context_start": 2, **options})


@pytest.fixture
def network():
    with torch.device("meta"):
        return jit("B/16")


@pytest.fixture
def gpu_attention(monkeypatch):
    """A fused kernel on the CPU, which lays its output out as GPUs do."""

    def attention(q, k, v, dropout=0.0, mask=None):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).contiguous()

    monkeypatch.setattr(sys.modules["pixelgen.models.layers"], "attention", attention)


def saved_by(run: Callable[[], object], autocast: bool = True) -> set[UntypedStorage]:
    """The storages that autograd really saves on the CPU, under real autocast."""
    saved = set()

    def note(tensor):
        saved.add(tensor.untyped_storage())
        return tensor

    context = torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False)
    with context, saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return saved


def forward(denoiser):
    labels = None if denoiser.num_classes is None else torch.zeros(B, dtype=torch.long)
    return denoiser(torch.randn(B, 3, 32, 32), torch.rand(B), labels)


def storages(*tensors) -> set[UntypedStorage]:
    return {tensor.untyped_storage() for tensor in tensors}


def total(found: set[UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in found)


def really_saved(denoiser, autocast=True) -> int:
    """Bytes, without parameters, and with what flash attention keeps on GPUs alone."""
    saved = saved_by(lambda: forward(denoiser), autocast)
    return total(saved - storages(*denoiser.parameters())) + RANDOM_STATE * DEPTH


# Weights and what belongs to them


def test_bytes_of_the_parts(network):
    everything, positions = 131_320_320, 256 * 768  # positions have no gradient
    trained = everything - positions
    found = training_memory(network, batch_size=1, averages=3, strategy="one")
    assert found.weights == 4 * everything
    assert found.gradients == 4 * trained
    assert found.optimizer == 8 * trained
    assert found.averages == 12 * trained
    assert found.total == 4 * everything + 24 * trained + found.activations
    assert training_memory(network, 1, strategy="ddp", world_size=8).gradients == 8 * trained  # and their buckets


def test_bytes_of_a_checkpoint(network):
    everything, trained = 131_320_320, 131_320_320 - 256 * 768
    assert checkpoint_bytes(network) == {"raw": 4 * everything, "optimizer": 8 * trained, "average": 4 * trained}


def test_a_saved_file_is_as_large_as_foretold(tmp_path):
    denoiser = small(hidden_size=128)
    optimizer = torch.optim.AdamW(p for p in denoiser.parameters() if p.requires_grad)
    forward(denoiser).sum().backward()
    optimizer.step()
    torch.save({"state_dict": denoiser.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "file")
    expected = checkpoint_bytes(denoiser)
    assert (tmp_path / "file").stat().st_size == pytest.approx(expected["raw"] + expected["optimizer"], rel=0.02)


def test_fsdp_holds_shares_and_a_few_whole_blocks():
    denoiser = small(num_classes=8)
    tables = D + C * D  # ninth row of the labels, class tokens
    block = (2 * D + 2 * D // H) + (4 * D * D + 4 * D) + (3 * D * HIDDEN + 2 * HIDDEN + D) + (6 * D * D + 6 * D)
    everything = sum(p.numel() for p in denoiser.parameters())
    assert sum(p.numel() for p in denoiser.blocks[0].parameters()) == block
    assert unsharded(denoiser) == everything - (DEPTH - 2) * block

    found = training_memory(denoiser, 1, averages=1, strategy="fsdp", world_size=2)
    odd = tables - D  # of the labels, 5 of 9 rows; of the class tokens, whose first dimension is 1, all
    share = (everything - tables) // 2 + D + odd
    assert (everything - tables) % 2 == 0
    assert found.weights == 4 * share + 4 * unsharded(denoiser) + 4 * N * D  # positions
    assert found.gradients == found.averages == 4 * share
    assert found.optimizer == 8 * share


def test_fsdp_on_eight_gpus_is_an_eighth(network):
    one, fsdp = (training_memory(network, 2, 1, strategy, 8) for strategy in ("one", "fsdp"))
    assert fsdp.weights - 4 * unsharded(network) == pytest.approx(one.weights / 8, rel=0.02)
    for part in ("gradients", "optimizer", "averages"):
        assert getattr(fsdp, part) == pytest.approx(getattr(one, part) / 8, rel=0.02)
    assert fsdp.activations == one.activations


# Activations


@pytest.mark.parametrize("options", [{}, {"num_classes": None}, {"bottleneck_dim": None, "in_context_len": 0}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_activations_are_those_really_saved(gpu_attention, options, dtype):
    denoiser = small(**options)
    assert activation_bytes(denoiser, B, dtype=dtype) == really_saved(denoiser, autocast=dtype == torch.bfloat16)


def test_dropout_saves_a_byte_per_value(gpu_attention):
    denoiser = small(proj_drop=0.1)
    dropped = B * (N + N + C) * (D + HIDDEN)  # values in the two middle blocks; the CPU saves two bytes for each
    assert activation_bytes(denoiser, B) == really_saved(denoiser) - dropped


def test_autograd_saves_the_cast_of_every_weight(gpu_attention):
    denoiser = small()
    cast = 2 * (2 * HIDDEN * D)  # bytes of `w12`, a size that no other tensor has
    assert [storage.nbytes() for storage in saved_by(lambda: forward(denoiser))].count(cast) == DEPTH


def test_checkpointed_blocks_keep_their_inputs_and_the_inside_of_one(gpu_attention):
    denoiser = small()
    x, c = torch.randn(B, C + N, D, requires_grad=True), torch.randn(B, D, requires_grad=True)
    table = rotary_table(D // H, 8, 8, C, x.device)
    block = denoiser.blocks[-1]
    inside = saved_by(lambda: block(x, c, table)) - storages(x, c, table, *denoiser.parameters())
    expected = activation_bytes(denoiser, B, checkpoint_blocks=True)
    denoiser.checkpoint_blocks = True
    kept = saved_by(lambda: forward(denoiser)) - storages(*denoiser.parameters())
    assert expected == total(kept) + total(inside) + RANDOM_STATE
    assert expected < activation_bytes(denoiser, B) / 2


def test_activations_grow_linearly_with_the_batch():
    one, two, many = (activation_bytes(small(), size) for size in (1, 2, 32))
    assert many == one + 31 * (two - one)
    assert two - one < one  # the casts of weights do not grow


def test_the_denoiser_is_left_as_it_is():
    denoiser = small().eval()
    denoiser.checkpoint_blocks = True
    denoiser.blocks[0]._compiled_call_impl = pytest.fail  # what is compiled is not called
    before = list(denoiser.parameters())
    table = rotary_table(D // H, 8, 8, C, torch.device("cpu"))
    expected = activation_bytes(small(), B)
    assert activation_bytes(denoiser, B) == expected
    assert all(a is b and not a.is_meta for a, b in zip(before, denoiser.parameters(), strict=True))
    assert denoiser.checkpoint_blocks
    assert not denoiser.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in denoiser.modules())
    assert rotary_table(D // H, 8, 8, C, torch.device("cpu")) is table
    assert all(parameter.is_meta for parameter in memory.on_meta(denoiser).parameters())


def test_kernels_of_a_gpu():
    a = torch.empty(2, 3, 5, 8, device="meta", requires_grad=True)
    with memory.GpuKernels(torch.bfloat16):
        assert (a @ a.mT).dtype == torch.bfloat16
        assert (a + a).dtype == torch.float32
        assert F.scaled_dot_product_attention(a, a, a, dropout_p=0.1).shape == a.shape
        assert F.dropout(a, 0.1, training=False) is a


# The command


def test_the_command(capsys, monkeypatch):
    monkeypatch.setattr(memory, "PUBLISHED", ("B/16",))
    memory.main(["--batch_size", "32", "--world_size", "8"])
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if "B/16" in line)
    assert row == ["B/16", "131", "M", "10.4", "4.2", "7.6", "1.5", "0.5", "1.0", "0.5"]


def test_nonsense_is_refused(network):
    with pytest.raises(ValueError, match="unknown strategy 'zero': choose one of ddp, fsdp, one"):
        training_memory(network, 1, strategy="zero")
    with pytest.raises(SystemExit, match="0 images"):
        memory.main(["--batch_size=0"])


def test_text_counts_too():
    sizes = dict(input_size=8, patch_size=4, hidden_size=16, depth=2, num_heads=2, text_dim=6, text_length=5)
    plain, deeper = (training_memory(TextJiT(**sizes, bottleneck_dim=4, text_depth=n), 2).activations for n in (0, 1))
    assert 0 < plain < deeper
