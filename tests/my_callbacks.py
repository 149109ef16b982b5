"""Callbacks as a user would write them, outside of the package."""

from pathlib import Path

from lightning.pytorch import Callback

from pixelgen.callbacks import Periodic


class CountBatches(Callback):
    """Writes how many batches were seen so far, once training is over."""

    def __init__(self, file: str = "batches.txt"):
        self.file, self.batches = file, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1

    def on_train_end(self, trainer, pl_module):
        Path(trainer.default_root_dir, self.file).write_text(f"{self.batches}")

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state_dict):
        self.batches = state_dict["batches"]


class Steps(Periodic):
    """Notes the steps at which it runs."""

    def __init__(self, every_n_steps: int = 2):
        super().__init__(every_n_steps)
        self.steps = []

    def check(self, pl_module, data):
        if self.every_n_steps == 13:
            raise ValueError("13 steps bring bad luck: take 12 or 14")

    def run(self, trainer, pl_module):
        self.steps.append(trainer.global_step)
