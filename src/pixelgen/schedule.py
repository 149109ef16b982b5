"""Learning rates by optimizer step, and the settings of optimizers in resumed runs."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Group = dict[str, Any]  # what a group of parameters is optimized with: learning rate, betas, weight decay, …
NO_SETTINGS = ("params", "param_names", "name", "initial_lr")


class WarmUp(LRScheduler):
    """Multiplies what another schedule says by a ramp from 0 to 1 over the first steps.

    The rate that is set is the one that is stepped with, so that loggers see the ramp.

    Args:
        schedule: the other schedule, of the same optimizer.
        steps: length of the ramp; the first step has the share 1/steps, the last the whole rate.
    """

    def __init__(self, schedule: LRScheduler, steps: int) -> None:
        self.schedule, self.steps, self.optimizer, self.last_epoch = schedule, steps, schedule.optimizer, 0
        self._ramp()

    def _ramp(self) -> None:
        share = min(1.0, (self.last_epoch + 1) / self.steps)
        self._last_lr = [share * rate for rate in self.schedule.get_last_lr()]
        self._set(self._last_lr)

    def _set(self, rates: Sequence[Any]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def step(self, epoch: int | None = None) -> None:
        """One optimizer step later; the other schedule sees the rates without the ramp."""
        self._set(self.schedule.get_last_lr())
        self.schedule.step()
        self.last_epoch += 1
        self._ramp()

    def state_dict(self) -> dict[str, Any]:
        """That of the other schedule, and the number of steps."""
        return {"schedule": self.schedule.state_dict(), "steps": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        self.schedule.load_state_dict(state_dict["schedule"])
        self.last_epoch = state_dict["steps"]
        self._ramp()


class Resumption:
    """Lets a resumed run be optimized as it is asked for now, and says in one line what the checkpoint had instead.

    Of a checkpoint only the moments are taken. Learning rate, betas, weight decay and so on are those that the
    optimizer was built with, and a schedule that is stepped after every optimizer step stands where as many steps
    from its beginning bring it: exactly where it stood, if nothing has changed.
    """

    def __init__(self) -> None:
        self._own: list[list[Group]] = []  # of each optimizer
        self._schedules: list[dict[str, Any]] | None = None  # states in the checkpoint; None if none was loaded

    def note(self, trainer: Trainer) -> None:
        """Note the settings of optimizers that have just been built."""
        self._own = [groups_of(optimizer) for optimizer in trainer.optimizers]

    def take_schedules(self, checkpoint: dict[str, Any]) -> None:
        """Take the states of schedules out of a checkpoint, which may be those of other schedules."""
        self._schedules = checkpoint.get("lr_schedulers", [])
        checkpoint["lr_schedulers"] = []

    def apply(self, trainer: Trainer) -> None:
        """Put the noted settings back and bring schedules to the present step, if a checkpoint has been loaded.

        Raises:
            ValueError: if the checkpoint's is another optimizer.
        """
        states, self._schedules = self._schedules, None
        if states is None:
            return
        stored = [groups_of(optimizer) for optimizer in trainer.optimizers]
        for optimizer, own, former in zip(trainer.optimizers, self._own, stored, strict=True):
            refuse_other_optimizer(optimizer, own[0], former[0])
            for group, settings in zip(optimizer.param_groups, own, strict=True):
                group.update(settings)
        for number, config in enumerate(trainer.lr_scheduler_configs):
            if config.interval == "step" and config.frequency == 1:
                advance(config.scheduler, trainer.global_step)
            elif number < len(states):
                config.scheduler.load_state_dict(states[number])
        self._say(trainer, stored)

    def _say(self, trainer: Trainer, stored: list[list[Group]]) -> None:
        changes: list[str] = []
        for optimizer, former in zip(trainer.optimizers, stored, strict=True):
            if changed := _changes(former, groups_of(optimizer)):
                optimizer.load_state_dict(optimizer.state_dict())  # `fused` decides where it counts its steps
                changes += changed
        if changes:
            said = ", ".join(dict.fromkeys(changes))
            rank_zero_info(f"the optimizer changes where the run is resumed, at step {trainer.global_step}: {said}")
        if not any(float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups):
            rank_zero_warn(
                f"the learning rate is 0 at step {trainer.global_step}, where the run is resumed, and while it is, "
                "nothing is learned: let the schedule end later (model.scheduler), or set model.scheduler to null"
            )


def groups_of(optimizer: Optimizer) -> list[Group]:
    """The settings of each group of parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def refuse_other_optimizer(optimizer: Optimizer, own: Group, stored: Group) -> None:
    """Refuse settings of an optimizer of another class: its moments would be none here."""
    ours, theirs = (sorted(a.keys() - b.keys() - {*NO_SETTINGS}) for a, b in ((own, stored), (stored, own)))
    if ours and theirs:
        raise ValueError(
            f"the checkpoint was trained with another optimizer than {type(optimizer).__name__}: it has {theirs[0]}, "
            f"not {ours[0]}; resume with the run's own model.optimizer, or start from its weights with --init_from"
        )


def advance(schedule: LRScheduler, steps: int) -> None:
    """Step a new schedule."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has not been stepped yet
        for _ in range(steps):
            schedule.step()


def _changes(former: list[Group], groups: list[Group]) -> list[str]:
    """What is other than before, as `lr 0.001 -> 1e-05`."""
    return [
        f"{key} {_shown(before[key])} -> {_shown(value)}"
        for before, group in zip(former, groups, strict=True)
        for key, value in group.items()
        if key in before and key not in NO_SETTINGS and not _same(before[key], value)
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float | torch.Tensor) and isinstance(other, float | int | torch.Tensor):
        return math.isclose(float(one), float(other), rel_tol=1e-6)
    return bool(one == other)


def _shown(value: Any) -> str:
    return f"{float(value):.4g}" if isinstance(value, float | torch.Tensor) else str(value)
