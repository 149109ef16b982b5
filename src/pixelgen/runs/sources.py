"""What a source of weights tells beside the weights: its folder, sampler, class names, averages and step."""

from __future__ import annotations

import hashlib
from argparse import ArgumentError
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch import nn

from pixelgen.config import one_sentence
from pixelgen.data import ImageData
from pixelgen.runs.published import model_config
from pixelgen.runs.run import average_name, denoiser_weights, find_weights, read_checkpoint, run_folder
from pixelgen.samples.sampling import Average

PREFIX = "width"  # of the names of power-function averages


class Source:
    """A run, a checkpoint, an export or a published checkpoint, read once.

    Args:
        source: whatever `pixelgen.load` takes.

    Raises:
        ValueError: if there is no readable checkpoint or export.
    """

    def __init__(self, source: str | Path) -> None:
        self.path = find_weights(source)
        self.checkpoint = read_checkpoint(self.path)
        self.published = "published" in self.checkpoint

    @cached_property
    def home(self) -> Path:
        """The folder that results belong to: of the run or export, or where a published checkpoint lies."""
        folder = self.path.parent if self.published else run_folder(self.path)
        return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config, with `model` and perhaps `data`."""
        if self.published:
            return {"model": model_config(denoiser_weights(self.checkpoint, True), self.checkpoint["published"])}
        with (self.home / "config.yaml").open() as file:
            config: dict[str, Any] = yaml.safe_load(file)
        return config

    @property
    def sampler(self) -> dict[str, Any]:
        """Class and arguments of its sampler, as configs say it."""
        model = self.config["model"]
        sampler: dict[str, Any] | None = model.get("init_args", model).get("sampler")
        return sampler or {"class_path": "pixelgen.flow.Heun"}

    def class_names(self) -> list[str]:
        """Names of the classes, from the data that the run was trained on.

        Raises:
            ValueError: if the source does not tell, or the data is not there any more.
        """
        if "data" not in self.config:
            raise ValueError(f"{self.path} does not tell the names of its classes")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--data", type=ImageData)
        try:
            data = parser.instantiate(parser.parse_object({"data": self.config["data"]})).data
        except (ArgumentError, ValueError, OSError) as error:
            raise ValueError(f"the data of the run cannot tell class names ({one_sentence(error)})") from error
        if data.class_names is None:
            raise ValueError("the data of the run has no classes")
        names: list[str] = data.class_names
        return names

    @property
    def averages(self) -> list[str]:
        """Names of the averages that are stored."""
        return [*self.checkpoint.get("callbacks", {}).get("EMA", {}).get("averages", {})]

    def identity(self, ema: Average) -> dict[str, Any]:
        """Which weights: the name of the average and the optimizer step, None where the file does not say."""
        step = str(self.checkpoint.get("global_step"))
        name = ema if width_of(ema) is not None else average_name(self.checkpoint, ema)
        return {"average": name, "step": int(step) if step.isdecimal() else None}


def width_of(ema: Average) -> float | None:
    """The width that the name of an average tells, such as 0.1 of "width0.10"; None for other averages."""
    if not isinstance(ema, str) or not ema.startswith(PREFIX):
        return None
    try:
        return float(ema.removeprefix(PREFIX))
    except ValueError:
        return None


def fingerprint(module: nn.Module) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
