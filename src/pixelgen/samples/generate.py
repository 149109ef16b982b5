"""Sets of generated images on disk: made once, by any number of processes, and finished after an interruption."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning import Fabric
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from pixelgen.flow import Sampler, to_uint8
from pixelgen.models import Denoiser
from pixelgen.module import PixelGen

SETTINGS = "settings.json"
METADATA = "pixelgen"  # key of the text in each PNG: JSON of the settings, the seed and the condition
TOKENS = 8192  # patches in a network batch: enough to fill a GPU
LARGEST = 32  # images in a network batch, since a small set is padded to one
WRITERS = 4  # threads that write images


def file_name(number: int) -> str:
    """Of an image in a set that is numbered from 0."""
    return f"{number:06d}.png"


@dataclass(frozen=True)
class Request:
    """One image to make.

    Args:
        path: of the PNG, relative to the folder of its set.
        seed: of the noise.
        condition: class number or prompt; None for an unconditional network.
    """

    path: str
    seed: int
    condition: int | str | None = None


def generate(
    model: PixelGen,
    requests: Sequence[Request],
    folder: Path,
    settings: Mapping[str, Any],
    fabric: Fabric,
    *,
    batch_size: int = 64,
    sampler: Sampler | None = None,
    size: tuple[int, int] | None = None,
    negative: str = "",
) -> None:
    """Make what is missing of a set of images; call it in every process, with the same arguments.

    The network always sees the same requests side by side, `network_batch` of them from the start of the list: so the
    files are the same to the byte whatever `batch_size`, the number of processes and interruptions. Each process
    writes its share, under temporary names that are replaced by the final ones once the files are whole. Batches that
    lack an image are made again, images that are there are kept.

    Args:
        model: on the device of `fabric`.
        requests: the images of the set; a set may grow at its end later.
        folder: where the set lives, with `settings.json`.
        settings: what the images depend on (JSON); it also stands in the metadata of each PNG.
        fabric: launched; its precision is used.
        batch_size: images made between two looks at the clock and the disk, rounded up to whole network batches.
        sampler: other than the model's own.
        size: (height, width) in pixels, if not the training size.
        negative: prompt that guidance leads away from.

    Raises:
        ValueError: if the folder holds a set of other settings, is being filled by somebody else, or cannot be written.
    """
    together = network_batch(model.denoiser, size)
    settings = {**settings, "network_batch": together}
    groups = [requests[i : i + together] for i in range(0, len(requests), together)]
    with _claim(folder, requests, settings, fabric) as present, agreement(fabric):
        missing = [group for group in groups if any(request.path not in present for request in group)]
        share = missing[fabric.global_rank :: fabric.world_size]
        left = sum(request.path not in present for group in missing for request in group)
        at_once = max(1, -(-batch_size // together))
        with progress(fabric, left, len(share)) as advance, _Writer(folder, settings, at_once) as writer:
            for group in share:
                wanted = [i for i, request in enumerate(group) if request.path not in present]
                images = _make(model, group, together, sampler, size, negative, fabric)
                writer.write([group[i] for i in wanted], images[wanted])
                advance()


def network_batch(denoiser: Denoiser, size: tuple[int, int] | None = None) -> int:
    """How many images of a set go through the network at a time: it depends on their size alone.

    Matrix products of another number of rows round otherwise, which shows in a byte of some hundred thousand.
    """
    height, width = size or (denoiser.image_size, denoiser.image_size)
    return max(1, min(LARGEST, TOKENS * denoiser.patch_size**2 // (height * width)))


def _make(
    model: PixelGen,
    group: Sequence[Request],
    together: int,
    sampler: Sampler | None,
    size: tuple[int, int] | None,
    negative: str,
    fabric: Fabric,
) -> Tensor:
    """Images of a group, uint8 (together, C, H, W) on the device; an incomplete group is padded by its last request."""
    padded = [*group, *[group[-1]] * (together - len(group))]
    conditions: Any = None if group[0].condition is None else [request.condition for request in padded]
    options: dict[str, Any] = {"negative": negative} if negative else {}
    with fabric.autocast():
        images = model.sample(
            conditions, [request.seed for request in padded], sampler, batch_size=together, size=size, **options
        )
    return to_uint8(images)


# --- the folder


@contextmanager
def _claim(
    folder: Path, requests: Sequence[Request], settings: Mapping[str, Any], fabric: Fabric
) -> Iterator[set[str]]:
    """Hold the folder for this set, and say which images are there, as rank 0 sees it."""
    lock = FileLock(folder / ".lock", timeout=0)
    present: set[str] = set()
    try:
        with agreement(fabric):
            if fabric.global_rank == 0:
                present = _open(folder, lock, requests, settings)
        yield fabric.broadcast(present)
    finally:
        lock.release()


def _open(folder: Path, lock: FileLock, requests: Sequence[Request], settings: Mapping[str, Any]) -> set[str]:
    """Create the folder or check that it holds this set; paths of the requested images that are there."""
    path = folder / SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        files = {os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names}
        present = {request.path for request in requests} & files
        if path.exists():
            refuse_other_settings(path, settings)
        elif present:
            raise ValueError(f"{folder} holds {min(present)} but no {SETTINGS}: give another folder")
        else:
            unfinished = folder / f".{SETTINGS}.unfinished"
            unfinished.write_text(json.dumps(settings, indent=2) + "\n")
            unfinished.replace(path)
    except Timeout as error:
        raise ValueError(f"{folder} is being filled by another process: wait for it or give another folder") from error
    except OSError as error:
        raise ValueError(f"could not write into {folder} ({error}): give another folder") from error
    return present


def refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Compare the settings that images are to be made with to those in a `settings.json`.

    Raises:
        ValueError: naming the settings that differ.
    """
    try:
        found: dict[str, Any] = _flat(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): give another folder") from error
    wanted = _flat(json.loads(json.dumps(settings)))
    differing = [
        f"{key} is {found.get(key)!r}, not {wanted.get(key)!r}"
        for key in dict.fromkeys([*wanted, *found])
        if found.get(key) != wanted.get(key)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(
            f"{path.parent} holds images of other settings ({'; '.join(differing[:3])}{more}): give another folder"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


class _Writer:
    """Writes images in threads; an error in one of them is raised in the next `write`, or on leaving.

    Args:
        folder: of the set.
        settings: for the metadata.
        ahead: calls of `write` that may wait for their files.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], ahead: int) -> None:
        self.folder, self.settings, self.ahead = folder, settings, ahead
        self._pool = ThreadPoolExecutor(WRITERS)
        self._waiting: deque[list[Future[None]]] = deque()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            while kind is None and self._waiting:
                self._wait()
        finally:
            self._pool.shutdown()

    def write(self, requests: Sequence[Request], images: Tensor) -> None:
        """Hand over images (N, C, H, W), uint8, on any device; this waits neither for the device nor for the disk."""
        ready = torch.cuda.Event() if images.is_cuda else None
        host = images.permute(0, 2, 3, 1).to("cpu", non_blocking=True)
        if ready is not None:
            ready.record()
        self._waiting.append(
            [
                self._pool.submit(self._write, request, image, ready)
                for request, image in zip(requests, host, strict=True)
            ]
        )
        while len(self._waiting) > self.ahead:
            self._wait()

    def _wait(self) -> None:
        for future in self._waiting.popleft():
            future.result()

    def _write(self, request: Request, image: Tensor, ready: torch.cuda.Event | None) -> None:
        if ready is not None:
            ready.synchronize()
        about = PngInfo()
        about.add_text(METADATA, json.dumps({**self.settings, "seed": request.seed, "condition": request.condition}))
        path = self.folder / request.path
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze(-1).contiguous().numpy()).save(unfinished, "PNG", pnginfo=about)
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise ValueError(
                f"could not write {path} ({error}): free some space, then the same command goes on from there"
            ) from error


# --- processes


@contextmanager
def agreement(fabric: Fabric) -> Iterator[None]:
    """If a process fails in here, all of them do: none waits for one that has left."""
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    failed = torch.tensor(float(failure is not None), device=fabric.device)
    if fabric.world_size > 1:
        failed = fabric.all_reduce(failed, reduce_op="sum")  # type: ignore[assignment]
    if failure is not None:
        raise failure
    if failed > 0:
        raise ValueError("another process has failed: see its message")


@contextmanager
def progress(fabric: Fabric, images: int, batches: int, what: str = "images") -> Iterator[Any]:
    """A bar on rank 0 over the images of all processes; it advances by calls, `batches` in all."""
    speed = TextColumn("{task.fields[speed]}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn()
    with Progress(*columns, disable=fabric.global_rank != 0 or images == 0) as bar:
        task = bar.add_task(what, total=images, speed="")
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            completed = images * done / batches
            elapsed = bar.tasks[task].elapsed or 0.0
            speed = f"{completed / elapsed:.1f} images/s" if elapsed else ""
            bar.update(task, completed=round(completed), speed=speed)

        yield advance
