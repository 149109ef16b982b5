"""Weights of one network in another: a resumed run, or a new one of other classes, none, or another image size."""

from pathlib import Path

import torch
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_warn

from pixelgen.classes import changed_names
from pixelgen.config import build
from pixelgen.distributed.fsdp import FSDP
from pixelgen.models import Denoiser
from pixelgen.module import PixelGen
from pixelgen.runs.checkpoints import is_sharded
from pixelgen.runs.published import TABLE, Weights, below, load_weights, refuse_other_weights
from pixelgen.runs.run import Run

POSITIONS = "pos_embed"
TOKENS = "in_context_posemb"
TIME = "t_embedder.mlp.2.bias"


def start_from(model: PixelGen, source: str | Path) -> None:
    """Fill a new model from whatever `load` takes: the first EMA of the denoiser, and REPA's projector.

    Other classes and image sizes are met as `transferred` says, with a warning; else the whole denoiser must fit.
    A projector that is not there, or does not fit, starts anew with a warning; the adaptive weight always does.
    """
    run = Run(source)
    stored = run.weights()
    weights, changes = transferred(stored, model.denoiser)
    refuse_other_weights(model.denoiser, weights, run.path)
    refuse_other_start(model.denoiser, run, stored)
    load_weights(model.denoiser, weights, run.path)
    same = len(run.class_names or ()) == len(model.class_names or ())
    if same and (said := changed_names(run.class_names, model.class_names)):
        changes.append(f"the label table is kept, but its classes have other names: {said}")
    for change in changes:
        rank_zero_warn(f"starting from {run.path}: {change}")
    own, theirs = model.objective.state_dict(), run.contents.objective
    for slot in dict.fromkeys(key.partition(".")[0] for key in own if not key.startswith("adaptive.")):
        mine, found = (below(f"{slot}.", state) for state in (own, theirs))
        if {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in found.items()}:
            own |= {f"{slot}.{key}": value for key, value in found.items()}
        else:
            first = f"{slot}.{next(iter(mine))}"
            rank_zero_warn(f"{run.path} does not hold the objective's own weights ({first}, …): they start anew")
    model.objective.load_state_dict(own)


def check_resumable(model: PixelGen, path: Path, strategy: Strategy) -> None:
    """Refuse to resume a checkpoint with another network; one in shards is looked at by FSDP2, and needs it."""
    if is_sharded(path):
        if not isinstance(strategy, FSDP):
            raise ValueError(
                f"{path} is in shards, which FSDP2 alone resumes: add --config configs/overlay/fsdp.yaml, "
                "or start from its weights with --init_from"
            )
    else:
        run = Run(path)
        refuse_other_weights(model.denoiser, run.contents.raw, path)
        refuse_other_start(model.denoiser, run, run.contents.raw)


def refuse_other_start(denoiser: Denoiser, run: Run, stored: Weights) -> None:
    """Refuse a network whose class tokens enter at another block than in a run: no shape of its weights shows it."""
    if TOKENS not in denoiser.state_dict() or TOKENS not in stored:
        return
    try:
        with torch.device("meta"):
            found = build(Denoiser, run.arguments["denoiser"], "denoiser").in_context_start
    except (ValueError, AttributeError):  # a network of one's own, or a size that was never published
        return
    if found != (own := getattr(denoiser, "in_context_start", found)):
        raise ValueError(
            f"the class tokens of {run} enter before block {found}, here before block {own}: set "
            f"model.denoiser.in_context_start to {found}"
        )


def transferred(weights: Weights, denoiser: Denoiser) -> tuple[Weights, list[str]]:
    """The weights, changed where `denoiser` has other classes or images, and one sentence about each change.

    * Other images: positions are fixed, and `denoiser` has computed its own.
    * Other classes: the label table starts anew, but for the row of the null class, so that the network is at first
      what it was without a class. As many classes keep the whole table.
    * No classes: the null class joins the time embedding, since the network adds the two. Class tokens are dropped.
    * Classes where there were none: label table and class tokens start anew.

    Whatever else differs is left as it is, for `load_weights` to name.
    """
    own, weights, said = denoiser.state_dict(), dict(weights), []
    if _differ(own, weights, POSITIONS):
        weights[POSITIONS] = own[POSITIONS]
        said.append(f"positions are computed anew for images of {denoiser.image_size} px")
    if _differ(own, weights, TABLE):
        table = own[TABLE].clone()
        table[-1] = weights[TABLE][-1].to(table)
        said.append(
            f"the label table had {len(weights[TABLE]) - 1} classes, and here there are {len(table) - 1}: it starts "
            "anew, but for the null class"
        )
        weights[TABLE] = table
    if TABLE in weights and TABLE not in own and TIME in weights:
        null = weights.pop(TABLE)[-1].float()
        weights[TIME] = weights[TIME].float() + null
        tokens = weights.pop(TOKENS, None)
        gone = "" if tokens is None else "; its class tokens are dropped, so the first pictures will be worse"
        said.append(f"the network is unconditional here, as its null class was there{gone}")
    elif TABLE in own and TABLE not in weights and TOKENS not in weights:
        weights |= {key: own[key] for key in (TABLE, TOKENS) if key in own}
        said.append("the network had no classes: its label table starts anew")
    return weights, said


def _differ(own: Weights, theirs: Weights, key: str) -> bool:
    """Whether both have an entry, of the same width but another number of rows."""
    if key not in own or key not in theirs:
        return False
    mine, found = own[key].shape, theirs[key].shape
    return len(mine) == len(found) and mine[-1] == found[-1] and mine != found
