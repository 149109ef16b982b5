"""Verdicts written down as they come, so that scoring goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pixelgen.evaluation.geneval.detectors import Detector
from pixelgen.evaluation.geneval.folder import Sample

NAME = ".verdicts-{}.jsonl"
Record = dict[str, Any]


class Journal:
    """The verdicts of one detector on the images of a folder, in a file for each process until all are there.

    A verdict holds for the image that was judged: one that was written anew since, or is judged by another detector,
    has none.

    Args:
        folder: of the images.
        detector: that judges them.
        rank: number of this process.
    """

    def __init__(self, folder: Path, detector: Detector, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        about = [type(detector).__name__, detector.names, detector.colors, detector.protocol]
        self._detector = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def known(self, samples: Sequence[Sample]) -> list[Record]:
        """Verdicts that earlier processes left."""
        lines = (line for path in self._files() for line in path.read_text(errors="replace").splitlines())
        entries = [entry for entry in map(_parse, lines) if entry.get("detector") == self._detector]
        known = {(entry["record"]["filename"], *entry["image"]): entry["record"] for entry in entries}
        found = [(sample, known.get((sample.path, *self._image(sample.path)))) for sample in samples if known]
        return [record for sample, record in found if record and _is_of(record, sample)]

    def add(self, records: Iterable[Record]) -> None:
        """Write down what this process has found.

        Raises:
            ValueError: if it cannot be written.
        """
        path = self.folder / NAME.format(self.rank)
        try:
            lines = [
                {"detector": self._detector, "image": self._image(record["filename"]), "record": record}
                for record in records
            ]
            with path.open("a") as file:  # each line after a new line: the last one may be half a line
                file.write("".join("\n" + json.dumps(line) for line in lines))
        except OSError as error:
            raise ValueError(f"could not write down the verdicts in {path} ({error})") from error

    def clear(self) -> None:
        """Remove the files of all processes."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(NAME.format("*")))

    def _image(self, path: str) -> list[int]:
        stat = (self.folder / path).stat()
        return [stat.st_size, stat.st_mtime_ns]


def _parse(line: str) -> Record:
    try:
        entry = json.loads(line)
    except ValueError:  # the last line of a process that was killed
        return {}
    return entry if isinstance(entry, dict) else {}


def _is_of(record: Record, sample: Sample) -> bool:
    return bool(json.loads(record["metadata"]) == sample.prompt.metadata())
