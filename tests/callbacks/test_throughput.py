import csv
import time

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.periodic import sampling_mode
from pixelgen.callbacks.throughput import Throughput, peak_flops
from pixelgen.encoders.frozen import FrozenEncoder
from tiny_run import TinyData, TinyModule, tiny_trainer

# of the tiny network: products of 4 tokens, of one vector an image, attention; forward, and gradients of both factors
TOKENS, VECTORS = 16 * 48 + 16 * 16 + 16 * 2 * 42 + 42 * 16 + 16 * 48, 16 * 16 + 16 * 96 + 16 * 32
FLOPS = 3 * 2 * (4 * TOKENS + VECTORS + 2 * 4 * 4 * 16)
FLOPS += 2 * 2 * (4 * 48 * 16 + 256 * 16)  # of images and times, whose gradient nobody asks for


class Slow(FrozenEncoder):
    def __init__(self, seconds):
        super().__init__(nn.Identity())
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


class Perceptual(TinyModule):
    """A quarter of a step in a frozen network."""

    def __init__(self):
        super().__init__()
        self.encoder = Slow(0.01)

    def training_step(self, batch, batch_idx):
        self.encoder(batch["image"])
        time.sleep(0.03)
        return super().training_step(batch, batch_idx)


class SlowData(TinyData):
    def train_dataloader(self):
        def fetch(items):
            time.sleep(0.02)
            return {"image": torch.stack([i["image"] for i in items]), "label": torch.zeros(4, dtype=torch.long)}

        return torch.utils.data.DataLoader(self.train_dataset(), batch_size=4, collate_fn=fetch)


def fit(folder, *callbacks, module=None, data=None, **options):
    trainer = tiny_trainer(folder, list(callbacks), **options)
    trainer.fit(TinyModule() if module is None else module, TinyData() if data is None else data)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_speed_and_shares(tmp_path):
    values = fit(tmp_path, Throughput(every_n_steps=4), module=Perceptual(), data=SlowData())
    assert values["throughput/step_ms"] >= 59
    assert values["throughput/images_per_s"] == pytest.approx(4000 / values["throughput/step_ms"])
    # a third and a quarter, on a machine that does nothing else
    assert values["throughput/data_share"] == pytest.approx(0.33, abs=0.2)
    assert values["throughput/perceptual_share"] == pytest.approx(0.25, abs=0.2)
    assert "throughput/mfu" not in values  # nobody knows the peak of this processor


def test_no_frozen_networks(tmp_path):
    assert "throughput/perceptual_share" not in fit(tmp_path, Throughput(every_n_steps=2))


def test_hooks_are_there_in_logging_steps_only(tmp_path):
    seen = []

    class Look(Perceptual):
        def on_before_zero_grad(self, optimizer):
            seen.append(len(self.encoder._forward_hooks))

    fit(tmp_path, Throughput(every_n_steps=3), module=Look())
    assert seen == [0, 0, 1, 0, 0, 1]


class Pauses(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with sampling_mode(trainer, pl_module):
            time.sleep(0.25)


@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_sampling_checkpoints_and_validation_are_left_out(tmp_path, monkeypatch, first):
    class Steady(TinyModule):
        def training_step(self, batch, batch_idx):
            time.sleep(0.02)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            time.sleep(0.25)

    original = Trainer.save_checkpoint

    def slow(*args, **options):
        time.sleep(0.25)
        original(*args, **options)

    monkeypatch.setattr(Trainer, "save_checkpoint", slow)
    throughput = Throughput(every_n_steps=6)
    callbacks = [Pauses(), throughput] if first else [throughput, Pauses()]
    values = fit(tmp_path, *callbacks, Checkpoint(1), module=Steady(), limit_val_batches=1)
    assert 20 <= values["throughput/step_ms"] < 250  # each pause alone takes 250 ms
    assert values["throughput/data_share"] < 0.9


def test_flops_are_counted_once_and_resumed(tmp_path):
    throughput = Throughput(every_n_steps=2, peak_flops=1e9)
    values = fit(tmp_path, throughput, Checkpoint(2), max_steps=4)
    assert throughput.flops_per_image == FLOPS
    expected = throughput.flops_per_image * values["throughput/images_per_s"] / 1e9
    assert values["throughput/mfu"] == pytest.approx(expected)
    assert values["throughput/flops_per_step"] == pytest.approx(throughput.flops_per_image * 4)
    resumed = Throughput()
    resumed.load_state_dict(throughput.state_dict())
    assert resumed.flops_per_image == throughput.flops_per_image


def test_accumulation(tmp_path):
    throughput = Throughput(every_n_steps=2, peak_flops=1e9)
    values = fit(tmp_path, throughput, max_steps=2, accumulate_grad_batches=2)
    assert throughput.flops_per_image == FLOPS
    assert values["throughput/images_per_s"] == pytest.approx(8000 / values["throughput/step_ms"])


@pytest.mark.parametrize(("count_flops", "tolerance"), [(False, 0), (True, 1e-5)])
def test_training_does_not_notice(tmp_path, count_flops, tolerance):
    """Counted operations are split into smaller ones, which rounds otherwise."""
    plain, timed = TinyModule(global_noise=True), TinyModule(global_noise=True)
    throughput = Throughput(every_n_steps=2, count_flops=count_flops, peak_flops=1e9)
    for module, callbacks in ((plain, []), (timed, [throughput])):
        torch.manual_seed(1)
        fit(tmp_path, *callbacks, module=module)
    assert plain.losses == pytest.approx(timed.losses, rel=tolerance, abs=0)


def test_nothing_is_left_behind_by_an_exception(tmp_path):
    class Fails(Perceptual):
        def training_step(self, batch, batch_idx):
            raise KeyError("failed")

    throughput, module = Throughput(every_n_steps=1, count_flops=False), Fails()
    with pytest.raises(KeyError, match="failed"):
        fit(tmp_path, throughput, module=module)
    assert not module.encoder._forward_hooks
    with pytest.raises(KeyError, match="failed"):
        fit(tmp_path, Throughput(peak_flops=1e9), module=Fails())
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_logged(tmp_path):
    fit(tmp_path, Throughput(every_n_steps=3), logger=CSVLogger(tmp_path, "", ""))
    assert "throughput/images_per_s" in (tmp_path / "metrics.csv").read_text()


def rates(folder):
    with (folder / "metrics.csv").open() as file:
        return [
            {name: float(row[name]) for name in row if name.startswith("lr") and row[name]}
            for row in csv.DictReader(file)
        ]


def test_the_learning_rate_is_logged_with_its_warm_up(tmp_path):
    module = TinyModule(lr=0.01, warmup_steps=4)
    fit(tmp_path, Throughput(every_n_steps=50), module=module, logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=2)
    assert [row["lr"] for row in rates(tmp_path)] == pytest.approx([0.005, 0.01, 0.01])


def test_the_learning_rate_of_each_group_is_logged(tmp_path):
    class Groups(TinyModule):
        def configure_optimizers(self):
            last = [*self.denoiser.final_layer.parameters()]
            others = [p for p in self.parameters() if all(p is not one for one in last)]
            return torch.optim.AdamW([{"params": last, "lr": 0.1, "name": "last"}, {"params": others, "lr": 0.01}])

    fit(tmp_path, Throughput(), module=Groups(), logger=CSVLogger(tmp_path, "", ""), max_steps=1)
    assert rates(tmp_path) == [{"lr-last": pytest.approx(0.1), "lr-1": pytest.approx(0.01)}]


def test_arguments():
    with pytest.raises(ValueError, match="at least 1"):
        Throughput(every_n_steps=0)


def test_hopper_peaks_are_those_of_dense_matrices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == 989e12
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None
