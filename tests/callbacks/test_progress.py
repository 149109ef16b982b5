from types import SimpleNamespace

import pytest

from pixelgen.callbacks.progress import Progress


@pytest.mark.parametrize(
    ("ready", "step", "max_steps", "accumulate", "total"),
    [
        (0, 0, 100, 1, 30),  # the epoch ends first
        (0, 90, 100, 1, 10),  # the run does
        (30, 90, 100, 1, 10),  # the former epoch's count
        (12, 12, 20, 1, 20),  # resumed in mid-epoch
        (0, 0, 10, 2, 20),
        (8, 4, -1, 2, 30),
    ],
)
def test_total_counts_batches_up_to_the_end(ready, step, max_steps, accumulate, total):
    progress = SimpleNamespace(current=SimpleNamespace(ready=ready))
    bar = Progress()
    bar._trainer = SimpleNamespace(
        num_training_batches=30,
        max_steps=max_steps,
        global_step=step,
        accumulate_grad_batches=accumulate,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )
    assert bar.total_train_batches == total
