"""Frozen networks: moved with the model, but outside of its parameters, checkpoints and averages."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FrozenEncoder(nn.Module):
    """A network that never trains.

    The network is held outside of the module tree: it has no entry in `parameters()` or `state_dict()`, so
    optimizers, EMA, DDP, FSDP and checkpoints pass it by. `.to()` and its relatives still move it, it stays in
    evaluation mode, and gradients flow through it into its input.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._held = (network.eval().requires_grad_(False),)  # modules inside a tuple are not registered

    @property
    def network(self) -> Any:
        """The frozen network."""
        return self._held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenEncoder":
        super()._apply(fn, recurse)
        self.network._apply(fn)
        return self


class FeatureExtractor(FrozenEncoder):
    """A frozen network that turns images into one vector each, for Fréchet distances and relatives.

    `forward` takes uint8 images (B, 3, H, W) and returns features (B, num_features), float32. `name` and the SHA-256 of
    the weights stand beside every number computed from them. A network with more than one vector overrides `sizes` and
    `outputs`.
    """

    def __init__(self, network: nn.Module, name: str, num_features: int, weights_sha256: str | None = None) -> None:
        super().__init__(network)
        self.name, self.num_features, self.weights_sha256 = name, num_features, weights_sha256

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
    """

    def __init__(self, network: nn.Module, num_features: int) -> None:
        super().__init__(network)
        self.num_features = num_features


class FeaturePyramid(FrozenEncoder):
    """A frozen network that turns images into feature maps at several depths, for perceptual losses.

    `forward` takes images (B, 3, H, W) in [-1, 1] and returns one map (B, C, h, w) per depth, C being its `channels`.
    """

    def __init__(self, network: nn.Module, channels: list[int]) -> None:
        super().__init__(network)
        self.channels = channels


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] → `(i - mean)/std`, float32, with the statistics of images i in [0, 1].

    A prediction in half precision is thus treated like the clean image in float32.
    """
    images = images.float()
    shift, scale = (images.new_tensor(value).view(3, 1, 1) for value in (mean, std))
    return ((images + 1) / 2 - shift) / scale
