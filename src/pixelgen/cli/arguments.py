"""What command-line arguments mean before and after they are parsed."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pixelgen.config import read_yaml
from pixelgen.runs.checkpoints import find_checkpoint, run_folder
from pixelgen.runs.trust import refuse_foreign

POLYNOMIAL = "torch.optim.lr_scheduler.PolynomialLR"
SCHEDULER = "model.init_args.scheduler.init_args"
FOLLOWING = {  # what ends with training, and what is drawn from the common seed
    **{f"{SCHEDULER}.{length}": "trainer.max_steps" for length in ("total_iters", "T_max", "total_steps")},
    **{f"{part}.init_args.seed": "seed_everything" for part in ("model", "data")},
}
LAST = "last"  # the value of --ckpt_path for "wherever this run was stopped"


def with_config_of_run(arguments: list[str]) -> list[str]:
    """Resuming without a config means the run's own config, which must not name what is foreign without `--trust`."""
    flags = [argument.partition("=")[0] for argument in arguments]
    for given, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, _, value = given.partition("=")
        if flag in ("--config", "-c") and Path(value or following).is_file():
            read_yaml(value or following)  # which says what is wrong with it
    if "--config" in flags or "-c" in flags or "--ckpt_path" not in flags:
        return arguments
    source, run = _value("--ckpt_path", arguments), _value("--run", arguments)
    if source == LAST:
        config = Path(run).expanduser() / "config.yaml"
        if not run or not config.is_file():
            return arguments
    else:
        config = run_folder(find_checkpoint(source)) / "config.yaml"
    content = read_yaml(config)
    if "--trust" not in flags:
        refuse_foreign(content, config)
    return ["--config", str(config), *arguments]


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
    key, scheduler = f"{SCHEDULER}.total_iters", config.model.init_args.get("scheduler")
    if not isinstance(scheduler, Namespace) or scheduler.class_path != POLYNOMIAL or key in given:
        return
    if config.trainer.max_steps < 1:
        raise ValueError("PolynomialLR must know when it ends: give trainer.max_steps, or model.scheduler.total_iters")
    config[key] = config.trainer.max_steps


def follow(config: Namespace, former: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Let what a run has from another of its options, such as the end of its schedule, change with that one.

    `former` is the config of the run; what the arguments name stays as they say.
    """
    flags = {argument.partition("=")[0].replace(".init_args", "") for argument in arguments}
    for key, source in FOLLOWING.items():
        if "--" + key.replace(".init_args", "") in flags:
            continue
        if (
            key in config
            and config[key] == _at(former, key) == _at(former, source)
            and config[source] not in (None, -1)
        ):
            config[key] = config[source]


def _at(settings: Any, key: str) -> Any:
    """A value in nested mappings by its dotted key; None if there is none."""
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


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
