"""Between logging steps, the host never asks the device for a value: on a GPU each such question waits for all work."""

import traceback
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from pixelgen.cli.training import CLI

HERE = Path(__file__).parent
ASKING = {
    torch.ops.aten._local_scalar_dense.default,  # .item(), float(), bool(), if
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.equal.default,
}
# what is asked of tensors that are on the CPU anyway: the order of samples, the images, the times of the gate
ON_THE_CPU = ("pixelgen/data/", "torch/utils/data/", "pixelgen/losses/gate.py")


class Questions(TorchDispatchMode):
    """Notes, step by step, who asks for the value of a tensor."""

    def __init__(self):
        super().__init__()
        self.step, self.asked = 0, []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator in ASKING:
            stack = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-1]]
            if not any(place in line for line in stack for place in ON_THE_CPU):
                self.asked.append((self.step, [line for line in stack if "torch/" not in line][-3:]))
        return operator(*args, **(kwargs or {}))


class CountSteps(Callback):
    def __init__(self, questions):
        self.questions = questions

    def on_train_batch_start(self, trainer, *_):
        self.questions.step = trainer.global_step + 1


def questions_of(folder, *more):
    sizes = ["--trainer.max_steps", "12", "--trainer.log_every_n_steps", "5", "--trainer.enable_progress_bar", "true"]
    off = ["--callbacks.fid", "null", "--callbacks.preview", "null"]
    cli = CLI(["--config", str(HERE / "parallel.yaml"), "--run", str(folder), *sizes, *off, *more])
    questions = Questions()
    cli.trainer.callbacks.insert(0, CountSteps(questions))
    with questions:
        cli.fit()
    return questions.asked


def test_nobody_asks_between_logging_steps(tmp_path):
    asked = questions_of(tmp_path / "run", "--callbacks.throughput.every_n_steps", "5")
    beginning, end = 0, 12
    assert [question for question in asked if question[0] not in (beginning, 5, 10, end)] == []
    assert {5, 10} <= {step for step, _ in asked}  # else nothing would be seen


def test_an_optimizer_that_is_not_fused_is_asked_for_by_the_guard(tmp_path):
    asked = questions_of(tmp_path / "run", "--model.optimizer.fused", "false")
    assert any("callbacks/skip_nonfinite.py" in line for step, who in asked for line in who if step == 3)


@pytest.mark.gpu
def test_nothing_waits_on_a_gpu(tmp_path):
    """The same with CUDA's own count of synchronisations, which sees copies too."""

    class Strict(Callback):
        def on_train_batch_start(self, trainer, *_):
            quiet = trainer.global_step % 5 != 4 and trainer.global_step > 1
            torch.cuda.set_sync_debug_mode("error" if quiet else "default")

        def on_train_end(self, *_):
            torch.cuda.set_sync_debug_mode("default")

    config = ["--config", str(HERE / "parallel.yaml"), "--run", str(tmp_path / "run"), "--trainer.accelerator", "gpu"]
    off = ["--callbacks.fid", "null", "--callbacks.preview", "null", "--callbacks.throughput.every_n_steps", "5"]
    cli = CLI([*config, *off, "--trainer.max_steps", "14", "--trainer.log_every_n_steps", "5"])
    cli.trainer.callbacks.append(Strict())
    cli.fit()
