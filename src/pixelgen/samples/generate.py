"""Generated images: one stream for every use, and sets on disk that are finished after an interruption."""

import json
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning import Fabric
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pixelgen.distributed.processes import agree, progress
from pixelgen.files import atomic, write_text
from pixelgen.flow import NotFinite, to_uint8
from pixelgen.module import PixelGen
from pixelgen.samples.sampling import Sampling
from pixelgen.samples.settings import SETTINGS, network_batch, network_batch_of, refuse_other_settings

RANDOM = "random classes"  # how settings and protocols name what `drawn` gives
METADATA = "pixelgen"  # key of the text in each PNG: JSON of the settings, the seed and the condition
WRITERS = 4  # threads that write images


def drawn(conditions: Sequence[Any], seed: int, number: int) -> list[Any]:
    """Conditions of images `seed`, `seed` + 1, … drawn at random, each by the seed of its image alone."""
    return [Random(f"condition/{own}").choice(conditions) for own in range(seed, seed + number)]


def file_name(number: int) -> str:
    """Of an image in a set that is numbered from 0."""
    return f"{number:06d}.png"


@dataclass(frozen=True)
class Request:
    """One image to make."""

    path: str  # of the PNG, relative to the folder of its set; empty where none is written
    seed: int  # of the noise
    condition: Any = None  # class number or prompt; None for an unconditional network


def stream(
    model: PixelGen,
    requests: Sequence[Request],
    sampling: Sampling | None = None,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    *,
    present: Collection[int] = (),
    pad: bool = False,
) -> Iterator[tuple[list[int], Tensor]]:
    """Generate the share of process `rank` of all images that are asked for, batch by batch.

    Batches are runs of `batch_size` requests from the start of the list, handed out in turn. Every process calls the
    network equally often, as sharded networks need: where its share is one batch short, the images of one more batch
    are thrown away. Without a `sampling`, the model's own sampler and the training size are taken, and the precision of
    the trainer that is attached. Images whose numbers are `present` are not yielded, and batches that lack none are
    left out. `pad` fills the last batch up, so that the network always sees `batch_size` images.

    Yields:
        The numbers of the requests in a batch, and their images, uint8 (B, C, H, W), on the device of the model.

    Raises:
        NotFinite: if the network makes an image with values that are not finite.
    """
    names = () if sampling is None else ("sampler", "size", "negative", "precision")
    options: dict[str, Any] = {name: getattr(sampling, name) for name in names}
    batches = missing_batches(len(requests), batch_size, present)
    for i in range(ceil(len(batches) / world_size)):
        number = i * world_size + rank
        numbers = batches[min(number, len(batches) - 1)]
        padding = [numbers[-1]] * (batch_size - len(numbers) if pad else 0)
        asked = [requests[n] for n in numbers + padding]
        conditions = None if asked[0].condition is None else [request.condition for request in asked]
        seeds = [request.seed for request in asked]
        images = _bytes(model, model.sample(conditions, seeds, batch_size=len(asked), **options), seeds)
        missing = [k for k, n in enumerate(numbers) if n not in present]
        if number < len(batches):
            yield [numbers[k] for k in missing], images[missing]


def _bytes(model: PixelGen, images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Images as uint8; those that are not finite are refused with what they were made of."""
    try:
        return to_uint8(images)
    except NotFinite as error:
        bad = [seed for seed, image in zip(seeds, images, strict=True) if not image.isfinite().all()]
        raise NotFinite(
            f"{model.origin or 'the network'} makes images with values that are not finite, of seed {bad[0]} first: "
            "take other weights (--ema), an earlier checkpoint, or --precision 32-true"
        ) from error


def missing_batches(number: int, batch_size: int, present: Collection[int] = ()) -> list[list[int]]:
    """Numbers from 0 in runs of `batch_size`, those runs left out that are all present."""
    batches = [list(range(i, min(i + batch_size, number))) for i in range(0, number, batch_size)]
    return [batch for batch in batches if any(n not in present for n in batch)]


def generate(
    model: PixelGen,
    requests: Sequence[Request],
    folder: Path,
    settings: Mapping[str, Any],
    fabric: Fabric,
    sampling: Sampling = Sampling(),
) -> None:
    """Make what is missing of a set of images; call it in every process, with the same arguments.

    The network always sees the same requests side by side, `network_batch` of them from the start of the list: so the
    files are the same to the byte whatever the batch size, the number of processes and interruptions. Batches that lack
    an image are made again, images that are there are kept. A set that grows keeps the network batch it began with.

    Args:
        model: on the device of `fabric`.
        requests: the images of the set; a set may grow at its end later.
        folder: where the set lives, with `settings.json`; nobody else may fill it meanwhile.
        settings: what the images depend on (JSON), the same as before; it also stands in the metadata of each PNG.
        fabric: launched; each of its processes writes its share.
        sampling: its sampler, size, negative prompt and precision make the images; its batch size, rounded up to whole
            network batches, is how many may wait for the disk.
    """
    together = network_batch(model.denoiser, len(requests), sampling.size)
    together = fabric.broadcast(network_batch_of(folder) or together)
    settings = {**settings, "network_batch": together}
    rank, world_size, ahead = fabric.global_rank, fabric.world_size, ceil(sampling.batch_size / together) * together
    waiting: deque[Future[None]] = deque()  # for the disk; an error in a thread is raised some images later
    with _claim(folder, requests, settings, fabric) as present, agree(fabric):
        left, batches = len(requests) - len(present), missing_batches(len(requests), together, present)
        images = stream(model, requests, sampling, together, rank, world_size, present=present, pad=True)
        with progress(fabric, left, len(batches[rank::world_size])) as advance, ThreadPoolExecutor(WRITERS) as pool:
            for numbers, batch in images:
                ready = torch.cuda.Event() if batch.is_cuda else None
                host = batch.permute(0, 2, 3, 1).to("cpu", non_blocking=True)
                if ready is not None:
                    ready.record()
                for n, image in zip(numbers, host, strict=True):
                    waiting.append(pool.submit(_write_png, folder, settings, requests[n], image, ready))
                while len(waiting) > ahead:
                    waiting.popleft().result()
                advance()
            for file in waiting:
                file.result()


@contextmanager
def _claim(
    folder: Path, requests: Sequence[Request], settings: Mapping[str, Any], fabric: Fabric
) -> Iterator[set[int]]:
    """Hold the folder for this set, and say which images are there, as rank 0 sees it."""
    lock = FileLock(folder / ".lock", timeout=0)
    present: set[int] = set()
    try:
        with agree(fabric):
            if fabric.global_rank == 0:
                present = _open(folder, lock, requests, settings)
        yield fabric.broadcast(present)
    finally:
        lock.release()


def _open(folder: Path, lock: FileLock, requests: Sequence[Request], settings: Mapping[str, Any]) -> set[int]:
    """Create the folder or check that it holds this set; numbers of the requested images that are there."""
    path = folder / SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        files = {os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names}
    except Timeout as error:
        raise ValueError(f"{folder} is being filled by another process: wait for it or give another folder") from error
    except OSError as error:
        raise ValueError(f"could not write into {folder} ({error}): give another folder") from error
    present = {number for number, request in enumerate(requests) if request.path in files}
    if path.exists():
        refuse_other_settings(path, settings)
    elif present:
        first = min(requests[number].path for number in present)
        raise ValueError(f"{folder} holds {first} but no {SETTINGS}: give another folder")
    else:
        write_text(path, json.dumps(settings, indent=2) + "\n")
    return present


def _write_png(
    folder: Path, settings: Mapping[str, Any], request: Request, image: Tensor, ready: torch.cuda.Event | None
) -> None:
    """Write an image (H, W, C), uint8, which is on its way from the device until the event."""
    if ready is not None:
        ready.synchronize()
    about = PngInfo()
    about.add_text(METADATA, json.dumps({**settings, "seed": request.seed, "condition": request.condition}))
    fix = "free some space, then resume with the same command"
    with atomic(folder / request.path, fix, flush=False, unique=False) as temporary:  # the folder is locked
        Image.fromarray(image.squeeze(-1).contiguous().numpy()).save(temporary, "PNG", pnginfo=about)
