"""Frozen networks: moved with the model, but outside of its parameters, checkpoints and averages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FrozenEncoder(nn.Module):
    """A network that never trains.

    The network is held outside of the module tree: it has no entry in `parameters()` or `state_dict()`, so
    optimizers, EMA, DDP, FSDP and checkpoints pass it by. `.to()` and its relatives still move it, it stays in
    evaluation mode, and gradients flow through it into its input.

    Args:
        network: the network to freeze, with its weights loaded.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._held = (network.eval().requires_grad_(False),)  # modules inside a tuple are not registered

    @property
    def network(self) -> Any:
        """The frozen network."""
        return self._held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenEncoder:
        super()._apply(fn, recurse)
        self.network._apply(fn)
        return self


class FeatureExtractor(FrozenEncoder):
    """A frozen network that turns images into one vector each, for Fréchet distances and relatives.

    `forward` takes uint8 images (B, 3, H, W) and returns features (B, num_features), float32. A network that has more
    to tell in the same pass overrides `sizes` and `outputs`.

    Args:
        network: the frozen network.
        name: what to call the features beside every number computed from them.
        num_features: length of one feature vector.
        weights_sha256: SHA-256 of the weights, when they came from a file.
    """

    def __init__(self, network: nn.Module, name: str, num_features: int, weights_sha256: str | None = None) -> None:
        super().__init__(network)
        self.name = name
        self.num_features = num_features
        self.weights_sha256 = weights_sha256

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each vector that `outputs` can make: `features`, perhaps `spatial` (sFID) and `logits` (IS)."""
        return {"features": self.num_features}

    def outputs(self, images: Tensor, wanted: Collection[str] = ("features",)) -> dict[str, Tensor]:
        """uint8 images (B, 3, H, W) → the wanted ones of `sizes` (B, length), float32, in one pass."""
        return {"features": self(images)}

    def metric(self, name: str) -> str:
        """What a metric is called in these features: `frechet/<name>`, since only Inception's are called FID."""
        return f"{name}/{self.name}"


class PatchEncoder(FrozenEncoder):
    """A frozen network that turns images into one feature vector per patch, for P-DINO and REPA.

    `forward` takes images (B, 3, H, W) in [-1, 1] and returns tokens (B, N, num_features), row by row.

    Args:
        network: the frozen network.
        num_features: length of one token.
    """

    def __init__(self, network: nn.Module, num_features: int) -> None:
        super().__init__(network)
        self.num_features = num_features


class FeaturePyramid(FrozenEncoder):
    """A frozen network that turns images into feature maps at several depths, for perceptual losses.

    `forward` takes images (B, 3, H, W) in [-1, 1] and returns one map (B, C, h, w) per depth.

    Args:
        network: the frozen network.
        channels: channels of each map.
    """

    def __init__(self, network: nn.Module, channels: list[int]) -> None:
        super().__init__(network)
        self.channels = channels


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _require(path: Path, what: str) -> None:
    if not path.is_file():
        raise ValueError(f"no weights of {what} at {path}: pass the path of the downloaded file")


def check_weights(path: Path, expected: str | None, what: str) -> str:
    """Return the SHA-256 of a weights file.

    Raises:
        ValueError: if the file is missing, or its hash differs from `expected`.
    """
    _require(path, what)
    found = sha256(path)
    if expected is not None and found != expected.lower():
        raise ValueError(
            f"the weights of {what} at {path} have SHA-256 {found}, not the expected {expected}: download them again"
        )
    return found


def read_weights(path: Path, what: str) -> dict[str, Tensor]:
    """A file's tensors on the CPU; nothing in it is executed.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    _require(path, what)
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise ValueError(f"{path} does not hold weights of {what}: download it again ({error})") from error
    return state


def download(url: str, what: str) -> Path:
    """Download a weights file once into torch's hub folder, check the hash in its name, and return its path.

    Of several processes on a machine one downloads, and the others wait for it.

    Raises:
        ValueError: without network, saying which file to put where; or if the file is damaged.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            _fetch(url, path, what)
    expected = path.stem.rsplit("-", 1)[-1]
    if not sha256(path).startswith(expected):
        raise ValueError(f"{path} is damaged: its SHA-256 does not begin with {expected}; delete it and try again")
    return path


def _fetch(url: str, path: Path, what: str) -> None:
    try:
        torch.hub.download_url_to_file(url, str(path))
    except OSError as error:
        raise ValueError(
            f"could not download the weights of {what} ({error}): fetch {url} and put it at {path}, "
            "or pass its path as `weights`"
        ) from error


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] → `(i - mean)/std`, with the statistics of images i in [0, 1]."""
    shift, scale = (images.new_tensor(value).view(3, 1, 1) for value in (mean, std))
    return ((images + 1) / 2 - shift) / scale
