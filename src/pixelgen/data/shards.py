"""Webdataset tars as a data module: local or remote, labelled or captioned, any number of processes and workers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from pixelgen.checks import COUNT, FROM_ZERO, POSITIVE, checked
from pixelgen.classes import changed_names
from pixelgen.data.captions import Captions
from pixelgen.data.decoding import Decoder, Unusable, label_in
from pixelgen.data.images import ImageData, Item
from pixelgen.data.reader import Source
from pixelgen.data.stream import ShardLoader, ShardStream
from pixelgen.data.tars import SkipCounts, expand_shards, is_remote
from pixelgen.files import read_text
from pixelgen.text import plain

CLASSES = "classes.txt"  # names of the classes, one a line, beside the shards
ENCODER = "text_states.json"  # settings of the encoder that made the text embeddings, beside the shards
PROBED = 10_000  # samples tried before a source is given up as having none that can be used, or no captions


class ShardData(ImageData):
    """Images streamed from webdataset tars, centre-cropped as in ADM.

    A sample is an image (`jpg`, `png`, `webp`, `avif`, `tif` and others) and, of the same name, what stands for it:
    `cls` (a class number or name; the field `class_name` of `json` decides), `txt` or `json` (captions), `safetensors`
    or `npy` (precomputed text embeddings). Batches have `label` if the classes are known, `caption` with `captions`,
    `text` with `text_states`.

    Each pass over the shards is one permutation, drawn from (seed, pass) and split across all workers of all processes:
    every sample is read once. Shards left over when each worker has equally many are split sample by sample, so each
    of these is read by several workers: use many more shards than workers. Readers never wait for each other, and an
    epoch of the trainer is `length` images, whatever the shards hold. Samples are shuffled in blocks of `buffer_mb`.

    Samples that are damaged or unsuitable are left out, counted by reason (`skipped`), and logged, the first of each
    kind with its shard and name.

    A resumed run with the same seed, shards, weights, processes, `num_workers` and `buffer_mb` sees exactly the samples
    that it would have seen without the stop, also with another `batch_size`: each worker reads again the block it was
    in. If any of these changes, the passes that were begun are left unfinished, and each worker goes on with the pass
    after the latest one begun: of the unfinished pass some samples have been seen and others are not seen.

    Args:
        shards: paths or URLs of the tars; `{000..123}`, for local ones also `*` and folders. A list is one source
            unless there are `weights`.
        weights: share of the samples from each entry of `shards`; null for one source, each sample once in a pass.
        image_size: side of the crops in pixels.
        batch_size: images per batch and process.
        num_workers: loading processes per training process.
        seed: decides orders, captions, flips.
        length: images of all processes that count as one epoch of the trainer.
        num_classes: number of classes; null to count `class_names`, or for unlabelled data.
        class_names: names of the classes; null for the lines of `classes.txt` beside the shards, if there is one.
        captions: how captions are chosen and changed; null for none.
        text_states: whether batches have precomputed text embeddings.
        min_side: images with fewer pixels on their shorter side are skipped; the published text recipe takes
            `image_size`.
        buffer_mb: megabytes of undecoded files that each worker holds for shuffling.
        flip: mirror half of the training images left to right. No published PixelGen recipe does.
        upright: turn images as their EXIF orientation asks for. ADM and the published recipes do not.
        val_shards: tars of held-out images; null for none.
        val_length: how many of their images a validation takes, the same ones each time.

    Raises:
        ValueError: if a pattern matches nothing, a source has no usable sample, numbers do not fit, or names of classes
            differ or are there twice.
    """

    @checked(
        **dict.fromkeys(("length", "num_classes", "val_length"), COUNT),
        **dict.fromkeys(("weights", "buffer_mb"), POSITIVE),
        min_side=FROM_ZERO,
    )
    def __init__(
        self,
        shards: str | list[str],
        weights: list[float] | None = None,
        image_size: int = 256,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        length: int = 100_000,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        captions: Captions | None = None,
        text_states: bool = False,
        min_side: int = 0,
        buffer_mb: float = 128,
        flip: bool = False,
        val_shards: str | None = None,
        val_length: int = 1024,
        upright: bool = True,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        self.captions = captions is not None or text_states
        self.length, self.val_length, self.buffer_bytes = length, val_length, int(buffer_mb * 1e6)
        patterns = [shards] if isinstance(shards, str) else list(shards)
        self.sources = _sources(patterns, weights)
        self.val_sources = [] if val_shards is None else _sources([val_shards], None)
        self.class_names = class_names or _names_beside([*self.sources, *self.val_sources])
        self.text_settings = _settings_beside([*self.sources, *self.val_sources]) if text_states else ()
        if len(set(self.class_names or ())) < len(self.class_names or ()):
            raise ValueError(f"two classes have one name among {self.class_names}: correct class_names or {CLASSES}")
        if num_classes is not None and self.class_names and num_classes != len(self.class_names):
            raise ValueError(
                f"num_classes is {num_classes}, but there are {len(self.class_names)} names of classes: leave "
                f"num_classes out, or correct class_names or {CLASSES} beside the shards"
            )
        self._num_classes = num_classes if num_classes is not None else super().num_classes
        names, classes = self.class_names, self._num_classes
        self._decode = Decoder(image_size, seed, names, classes, captions, text_states, min_side, flip, upright)
        self._decode_val = replace(self._decode, flip=False)
        self._loader: ShardLoader | None = None
        self._probed = False
        self._prompts: list[str] = []  # of the first samples, as many as were asked for
        self._asked = 0

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None if the images are unlabelled."""
        return self._num_classes

    @property
    def skipped(self) -> dict[str, int]:
        """What this process has left out of the training data so far, by reason."""
        counts = [0] * len(SkipCounts.REASONS) if self._loader is None else self._loader.skipped.tolist()
        return dict(zip(SkipCounts.REASONS, counts, strict=True))

    @property
    def summary(self) -> str:
        """What the data is, in words: classes and numbers of shards."""
        shards, val = (sum(len(source.shards) for source in sources) for sources in (self.sources, self.val_sources))
        return f"{self._kinds()}, {shards} shards; validation: {f'{val} shards' if val else 'none'}"

    def setup(self, stage: str | None = None) -> None:
        """Read each source up to its first usable sample."""
        if self._probed:
            return
        for decode, sources in ((self._decode, self.sources), (self._decode_val, self.val_sources)):
            for source in sources:
                item, files = first_usable(source, decode)
                self.labelled |= self._num_classes is None and not self.captions and _has_label(files)
                if "text" in item:  # all sources must have the same
                    self.text_shape = self._decode.text_shape = self._decode_val.text_shape = tuple(item["text"].shape)
        self._probed = True

    def teardown(self, stage: str | None = None) -> None:
        """Stop the workers."""
        if self._loader is not None:
            self._loader.close()

    def prompts(self, count: int) -> list[str]:
        """Captions of the first usable samples of the first source, from the first again where there are fewer.

        A ValueError if the samples have no captions, only text embeddings.
        """
        if count > self._asked:  # read once: later, a server may not answer
            captions = self._decode.captions or Captions(prefix_probability=0)  # also where batches have embeddings
            decode, skipped = Decoder(self.image_size, self.seed, captions=captions), SkipCounts(quiet=True)
            usable = decode.usable(zip(self.sources[0].samples(skipped), range(PROBED), strict=False), skipped)
            self._prompts, self._asked = [item["caption"] for item, _ in islice(usable, count)], count
        if not self._prompts:
            raise ValueError("the shards hold no captions that could serve as prompts: give prompts to the callback")
        return [self._prompts[i % len(self._prompts)] for i in range(count)]

    def train_dataset(self) -> ShardStream:
        """The training batches of this process, without end."""
        return self._stream(self.sources, self._decode, self.length)

    def val_dataset(self) -> ShardStream | None:
        """The held-out batches of this process, without end; None if there are none."""
        return self._stream(self.val_sources, self._decode_val, self.val_length) if self.val_sources else None

    def train_dataloader(self) -> ShardLoader:  # type: ignore[override]
        """Batches of this process' share of the shards, going on where the trainer's progress says.

        With the trainer's `overfit_batches`, the first ones in each epoch.
        """
        self._loader = self._load(self.train_dataset(), "length", None if self._overfits else self._batches_consumed)
        return self._loader

    def val_dataloader(self) -> ShardLoader | list[Any]:  # type: ignore[override]
        """The same held-out batches each time. Empty list if there are none."""
        stream = self.val_dataset()
        return [] if stream is None else self._load(stream, "val_length")

    def _stream(self, sources: list[Source], decode: Decoder, length: int) -> ShardStream:
        return ShardStream(sources, decode, self.batch_size, length, self.seed, self.buffer_bytes, *self._shard())

    def _load(self, stream: ShardStream, length: str, consumed: Callable[[], int] | None = None) -> ShardLoader:
        loader = ShardLoader(stream, consumed, self._gather, **self._loading())
        if not len(loader):
            raise ValueError(
                f"{length} is {stream.length}, less than one global batch of {self.batch_size * stream.world_size} "
                f"({self.batch_size} on each of {stream.world_size} processes): raise it or lower batch_size"
            )
        return loader


def _sources(patterns: list[str], weights: list[float] | None) -> list[Source]:
    if not patterns:
        raise ValueError("shards is empty: give the paths or URLs of the tars")
    if weights is None:
        return [Source("::".join(patterns), tuple(shard for pattern in patterns for shard in expand_shards(pattern)))]
    if len(weights) != len(patterns):
        raise ValueError(
            f"there are {len(patterns)} entries in shards and the weights {weights}: give each a positive one"
        )
    if len(set(patterns)) != len(patterns):
        raise ValueError("an entry of shards is given twice: add up their weights")
    return [Source(name, tuple(expand_shards(name)), weight) for name, weight in zip(patterns, weights, strict=True)]


def _names_beside(sources: list[Source]) -> list[str] | None:
    """The names of the classes beside local shards, which must be the same everywhere."""
    folders = dict.fromkeys(Path(shard).parent for s in sources for shard in s.shards if not is_remote(shard))
    files = [path for folder in folders if (path := folder / CLASSES).is_file()]
    names = [class_lines(read_text(path)) for path in files]
    for path, others in zip(files[1:], names[1:], strict=True):
        if said := changed_names(names[0], others):
            raise ValueError(
                f"{path} has other classes than {files[0]} ({said}): give class_names, or pack them together"
            )
    return names[0] if names else None


def class_lines(text: str) -> list[str]:
    """The names of classes in a text, one a line."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def _has_label(files: Mapping[str, bytes]) -> bool:
    try:
        return bool(label_in(files))
    except Unusable:
        return False


def _settings_beside(sources: list[Source]) -> list[dict[str, Any]]:
    """Settings of the encoders whose text embeddings local sources hold, as far as their folders tell."""
    found = dict.fromkeys(Path(s.shards[0]).parent / ENCODER for s in sources if not is_remote(s.shards[0]))
    try:
        return [json.loads(path.read_text()) for path in found if path.is_file()]
    except ValueError as error:
        raise ValueError(f"{ENCODER} beside the shards is damaged ({error}): encode them anew") from error


def first_usable(source: Source, decode: Decoder) -> tuple[Item, dict[str, bytes]]:
    """The first usable item of a source and its files; a ValueError says what is wrong with the samples of none."""
    skipped = SkipCounts(quiet=True)
    for sample in islice(source.samples(skipped), PROBED):
        try:
            return decode(sample), sample.files
        except Unusable as verdict:
            skipped.add(verdict.reason, f"{sample.key} in {sample.shard}: {verdict.detail}")
    found = ", ".join(f"{count} × {reason} ({skipped.first[reason]})" for reason, count in skipped.counts.items())
    raise ValueError(plain(f"nothing in the shards {source.name} can be used: {found or 'they are empty'}"))
