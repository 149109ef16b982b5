"""What command-line arguments mean before and after they are parsed."""

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pixelgen.runs.checkpoints import find_checkpoint, run_folder

POLYNOMIAL = "torch.optim.lr_scheduler.PolynomialLR"
LAST = "last"  # the value of --ckpt_path for "wherever this run was stopped"


def with_config_of_run(arguments: list[str]) -> list[str]:
    """Resuming without a config means the run's own config."""
    flags = [argument.partition("=")[0] for argument in arguments]
    if "--config" in flags or "-c" in flags or "--ckpt_path" not in flags:
        return arguments
    source = _value("--ckpt_path", arguments)
    if source == LAST:
        run = _value("--run", arguments)
        config = Path(run) / "config.yaml"
        return ["--config", str(config), *arguments] if run and config.is_file() else arguments
    return ["--config", str(run_folder(find_checkpoint(source)) / "config.yaml"), *arguments]


def _value(flag: str, arguments: list[str]) -> str:
    """The value of a flag, given as `--flag value` or `--flag=value`; empty if there is none."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else following
    return ""


def with_nulls(arguments: list[str]) -> list[str]:
    """`--a.b.c null` as a config in its place: jsonargparse hands a nested null on as the text "None"."""
    rewritten: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if not equals and rewritten and argument == "null":
            flag, value = rewritten[-1], argument
        if value == "null" and flag.startswith("--") and flag.count(".") > 1:
            nested: Any = None
            for key in reversed(flag[2:].split(".")):
                nested = {key: nested}
            rewritten = [*(rewritten if equals else rewritten[:-1]), f"--config={json.dumps(nested)}"]
        else:
            rewritten.append(argument)
    return rewritten


def fill(config: Namespace, given: Namespace, key: str, value: Any) -> None:
    """Set `key` where the config has such an argument and the user gave no value for it."""
    if key in config and key not in given:
        config[key] = value


def fill_schedule(config: Namespace, given: Namespace) -> None:
    """Let a polynomial schedule without `total_iters` end with training.

    Raises:
        ValueError: if the number of training steps is not given either.
    """
    key, scheduler = "model.init_args.scheduler.init_args.total_iters", config.model.init_args.get("scheduler")
    if not isinstance(scheduler, Namespace) or scheduler.class_path != POLYNOMIAL or key in given:
        return
    if config.trainer.max_steps < 1:
        raise ValueError("PolynomialLR must know when it ends: give trainer.max_steps, or model.scheduler.total_iters")
    config[key] = config.trainer.max_steps


def run_name(config: Namespace) -> str:
    """Name of a new run: that of the first config file."""
    names = [Path(str(path)).stem for path in config.config or [] if str(path).endswith((".yaml", ".yml", ".json"))]
    return names[0] if names else "run"


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a run folder, if it has one; they are complete even where `last.ckpt` was lost."""
    checkpoints = folder / "checkpoints"
    found = [checkpoints / "last.ckpt", *sorted(checkpoints.glob("step_*.ckpt"), reverse=True)]
    return next((str(path) for path in found if path.exists()), None)


def strategy_name(config: Namespace) -> str:
    """Name or class path of the trainer's strategy."""
    strategy = config.trainer.strategy
    return str(strategy.class_path if isinstance(strategy, Namespace) else strategy)
