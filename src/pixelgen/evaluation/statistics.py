"""What is kept of a set of images to compare it with others, in the files that the field shares; Fréchet distances."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.images import arrays, read_arrays
from pixelgen.files import atomic

MOMENTS = ("mu", "sigma", "mu_s", "sigma_s")
ABOUT = ("n", "total", "pixels", "extractor", "weights_sha256")


def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    """Squared Fréchet distance between two Gaussians: |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁^½ Σ₂ Σ₁^½)^½).

    The measure behind FID (Heusel et al., arXiv:1706.08500), computed in float64 by symmetric eigendecomposition,
    which stays real for singular covariances (fewer samples than features), where a general matrix square root
    returns imaginary parts. Means are (D,), covariances (D, D), of the same D, which a ValueError demands.
    """
    if mu1.shape != mu2.shape or sigma1.shape != sigma2.shape:
        raise ValueError(
            f"cannot compare features of {mu1.shape[0]} and {mu2.shape[0]} dimensions: "
            "use statistics of the same feature extractor"
        )
    mu1, sigma1, mu2, sigma2 = (x.detach().cpu().double() for x in (mu1, sigma1, mu2, sigma2))
    values, vectors = torch.linalg.eigh(sigma1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ sigma2 @ root).clamp(min=0).sqrt().sum()
    return float((mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * cross)


class Moments(Metric):
    """Mean and covariance of features, accumulated as float64 sums that add up over processes.

    Args:
        num_features: length D of one feature vector.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    n: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        shapes = {"n": (), "total": (num_features,), "outer": (num_features, num_features)}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add features (B, D)."""
        if features.ndim != 2 or features.shape[1] != len(self.total):
            raise ValueError(f"want features (B, {len(self.total)}), got {tuple(features.shape)}")
        features = features.detach().to(self.total)
        self.n += len(features)
        self.total += features.sum(dim=0)
        self.outer += features.T @ features

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D,), covariance (D, D) normalised by n - 1, and n, float64, of two or more samples."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {int(self.n)}")
        mu = self.total / self.n
        return mu, (self.outer - self.n * torch.outer(mu, mu)) / (self.n - 1), self.n.clone()


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, with what is needed to know whether two of them may be compared.

    Args:
        mu: mean (D,), float64.
        sigma: covariance (D, D), float64, normalised by n - 1.
        n: number of images, where the file says so.
        extractor: name of the feature extractor, where the file says so.
        weights_sha256: SHA-256 of the extractor's weights, where the file says so.
        mu_s: mean of the spatial features, for sFID.
        sigma_s: their covariance.
        features: features (K, D) of some of the images, float32, for precision, recall and KID.
        logits: logits (N, C) of all images, float32, for the Inception Score; no file keeps them.
        total: from how many images those were chosen, where it was a part.
        pixels: height and width of the images, where the file says so.
        images: checksum of the images in the same file, where features are computed from those.
    """

    mu: Tensor
    sigma: Tensor
    n: int | None = None
    extractor: str | None = None
    weights_sha256: str | None = None
    mu_s: Tensor | None = None
    sigma_s: Tensor | None = None
    features: Tensor | None = None
    logits: Tensor | None = None
    total: int | None = None
    pixels: tuple[int, int] | None = None
    images: str | None = None

    @staticmethod
    def of(features: Tensor) -> "Statistics":
        """Statistics of features (N, D), which it keeps."""
        moments = Moments(features.shape[1])
        moments.update(features.cpu())
        mu, sigma, n = moments.compute()
        return Statistics(mu, sigma, int(n), features=features.cpu())

    def to(self, device: torch.device | str) -> "Statistics":
        """The same with the features on a device, where images are compared one by one."""
        return replace(self, features=None if self.features is None else self.features.to(device))

    def distance(self, other: "Statistics") -> float:
        """Squared Fréchet distance to other statistics."""
        return frechet_distance(self.mu, self.sigma, other.mu, other.sigma)

    def spatial_distance(self, other: "Statistics") -> float:
        """Squared Fréchet distance of the spatial features, which both must have."""
        return frechet_distance(self.mu_s, self.sigma_s, other.mu_s, other.sigma_s)  # type: ignore[arg-type]

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between any two statistics, whatever of them is compared.

        In the place of features that are computed from images in the same file stand those images, which never change.
        """
        features = (self.images or "").encode() if self.features is None or self.images else _content(self.features)
        moments = (_content(value) for value in (self.mu, self.sigma, self.mu_s, self.sigma_s) if value is not None)
        return hashlib.sha256(b"".join([*moments, features])).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write an npz with `mu` and `sigma`, the keys the field uses, and whatever else is known."""
        known = {name: getattr(self, name) for name in (*MOMENTS, *ABOUT, "features")}
        kept: dict[str, Any] = {
            k: v.numpy(force=True) if isinstance(v, Tensor) else v for k, v in known.items() if v is not None
        }
        with atomic(path, "free some space or give another file") as temporary, temporary.open("wb") as file:
            np.savez(file, **kept)

    @staticmethod
    def load(path: Path, extractor: FeatureExtractor | None = None) -> "Statistics":
        """Read an npz of ours, ADM's (`mu`, `sigma`, `mu_s`, `sigma_s`, …) or JiT's (`mu`, `sigma`).

        A ValueError tells that the file holds no statistics, or that they come from another extractor.
        """
        if not path.is_file():
            raise ValueError(f"no statistics at {path}: pass the path of an npz with `mu` and `sigma`")
        found = arrays(path)
        if missing := {"mu", "sigma"} - found:
            raise ValueError(
                f"{path} holds {sorted(found)} but no {sorted(missing)}: "
                "pass an npz of feature statistics, or a folder of images"
            )
        try:
            known: dict[str, Any] = {**read_arrays(path, {*MOMENTS, *ABOUT, "features"} & found)}
            _check_moments(known)
        except Exception as error:  # zip and NumPy raise what they like on damaged bytes
            raise ValueError(f"the statistics in {path} are damaged ({error}): fetch or make the file again") from error
        for name, value in known.items():
            dtype = np.float32 if name == "features" else np.float64
            known[name] = value.tolist() if name in ABOUT else torch.from_numpy(np.asarray(value, dtype))
        statistics = Statistics(**known | ({"pixels": tuple(known["pixels"])} if "pixels" in known else {}))
        if extractor is not None:
            statistics.check(extractor, path)
        return statistics

    def check(self, extractor: FeatureExtractor, path: Path) -> None:
        """Raise a ValueError if these statistics, read from a file, cannot have come from `extractor`."""
        name, made, fix = extractor.name, f"the statistics in {path}", "pass the extractor that made them"
        if self.extractor not in (None, name):
            raise ValueError(f"{made} were made by {self.extractor}, not by {name}: {fix}")
        for mu, output, what in ((self.mu, "features", "features"), (self.mu_s, "spatial", "spatial features")):
            size = extractor.sizes.get(output)
            if mu is not None and size is not None and len(mu) != size:
                raise ValueError(f"{made} have {len(mu)} {what} but {name} makes {size}: {fix}")
        hashes = self.weights_sha256, extractor.weights_sha256
        if None not in hashes and hashes[0] != hashes[1]:
            raise ValueError(
                f"{made} were made with other weights of {name} ({hashes[0]}) than the ones loaded ({hashes[1]}): "
                "compute them again"
            )


def _check_moments(found: Mapping[str, Any]) -> None:
    for mu, sigma in (MOMENTS[:2], MOMENTS[2:]):
        shapes = [found[name].shape if name in found else None for name in (mu, sigma)]
        if shapes == [None, None]:
            continue
        if shapes[0] is None or len(shapes[0]) != 1 or shapes[1] != 2 * shapes[0]:
            raise ValueError(f"{mu} is {shapes[0]} and {sigma} is {shapes[1]}, not (D,) and (D, D)")
        if not all(np.isfinite(found[name]).all() for name in (mu, sigma)):
            raise ValueError(f"{mu} or {sigma} holds values that are not finite")
        if not np.allclose(found[sigma], found[sigma].T, rtol=1e-3, atol=1e-6):
            raise ValueError(f"{sigma} is not symmetric, so no covariance")
    features, side = found.get("features"), len(found["mu"])
    if features is not None and (features.ndim != 2 or features.shape[1] != side or not np.isfinite(features).all()):
        raise ValueError(f"features is {features.shape}, not finite numbers (K, {side})")
    for name, shape in {"n": (), "total": (), "pixels": (2,)}.items():
        if name in found and (found[name].shape != shape or found[name].dtype.kind not in "iu"):
            raise ValueError(f"{name} is no whole number" + (" for each side" if shape else ""))


def _content(values: Tensor) -> bytes:
    return values.cpu().numpy().tobytes()
