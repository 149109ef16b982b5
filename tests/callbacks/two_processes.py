"""Trains the tiny module with every callback on two processes; started by test_two_processes.py."""

import json
import logging
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.tensor import DTensor

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.preview import Preview
from pixelgen.callbacks.scores import FID, GenEval
from pixelgen.callbacks.skip_nonfinite import SkipNonFinite
from pixelgen.callbacks.summary import Summary
from pixelgen.callbacks.throughput import Throughput
from pixelgen.conditioner import Labels, Text
from pixelgen.evaluation import Metrics
from pixelgen.evaluation.geneval import DetectedObject, Detector, Prompt
from pixelgen.evaluation.geneval.prompts import ObjectSpec, to_lines
from tiny_run import TinyData, TinyModule, tiny_trainer
from toy_features import Toy

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class LabelsAndPrompts(Labels, Text):
    """Classes, or prompts, whose length decides."""

    def __init__(self):
        Text.__init__(self, None)
        self.num_classes = 3

    def parse(self, given, number):
        return super().parse([len(text) % 3 if isinstance(text, str) else text for text in given], number)


class Poisoned(TinyModule):
    def __init__(self):
        super().__init__()
        self.conditioner = LabelsAndPrompts()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        bad = self.global_step == 2 and self.global_rank == 1  # one process only
        return loss * float("inf") if bad else loss


class Bright(Detector):
    """Sees a circle in some images, depending on all of their pixels."""

    def __init__(self):
        super().__init__(["circle"], ["red"], {"detector": "bright"})

    def detect(self, images):
        return [[DetectedObject("circle", (0, 0, 1, 1), 0.95)] if image.long().sum() % 3 else [] for image in images]

    def colors_of(self, image, objects):
        return ["red"]


class Failing(Toy):
    """Cannot look at the images of the second process."""

    def forward(self, images):
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise RuntimeError("out of memory")
        return super().forward(images)


class Broken(FID):
    """Has a state of its own."""

    def __init__(self):
        super().__init__(Failing(), num_samples=9, every_n_steps=2, batch_size=2)


class Record(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weight = pl_module.denoiser.final_layer.linear.weight.detach()
        self.sharded = isinstance(weight, DTensor)
        weight = weight.full_tensor() if self.sharded else weight
        self.__dict__.setdefault("seen", []).append(weight.flatten().tolist())


def main(strategy, folder, max_steps, ckpt_path=None):
    ema, guard, record = EMA([0.5]), SkipNonFinite(), Record()
    metrics = Metrics(kid_subsets=3, kid_subset_size=5, splits=2)
    fid = FID(Toy(), num_samples=9, at_start=True, every_n_steps=3, batch_size=2, metrics=metrics)
    circles = Path(folder, "circles.jsonl")
    prompts = [Prompt("single_object", (ObjectSpec("circle"),), "circle" + i * "!") for i in range(9)]
    circles.write_text(to_lines(prompts))
    geneval = GenEval(Bright(), str(circles), images_per_prompt=3, at_start=True, batch_size=2)
    callbacks = [
        ema,
        guard,
        Throughput(every_n_steps=2),
        Preview(num_images=2),
        fid,
        geneval,
        Broken(),
        Summary(),
        record,
    ]
    options = {"devices": 1} if strategy == "one" else {"devices": 2, "strategy": _strategy(strategy)}
    trainer = tiny_trainer(
        folder, [*callbacks, Checkpoint(every_n_steps=3, monitor="frechet/toy")], max_steps=max_steps, **options
    )
    trainer.fit(Poisoned(), TinyData(), ckpt_path=ckpt_path)
    averages = ema.state_dict()["averages"]["0.5"]  # whole on the first process alone
    average = averages["final_layer.linear.weight"].flatten().tolist() if trainer.is_global_zero else None
    assert record.sharded == (strategy == "fsdp")
    result = {
        "fid": fid.history,
        "geneval": geneval.history,
        "skipped": guard.skipped,
        "average": average,
        "weights": record.seen,
    }
    Path(folder, f"rank{trainer.global_rank}.json").write_text(json.dumps(result))
    trainer.strategy.barrier()  # the first process ends the test


def _strategy(name):
    if name == "ddp":
        return DDPStrategy(process_group_backend="gloo")
    return ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend="gloo"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
