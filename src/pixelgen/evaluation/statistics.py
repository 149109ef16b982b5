"""What is kept of a set of images to compare it with others, in files that the field shares."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from pixelgen.data.sets import arrays
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.frechet import frechet_distance


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
    """

    mu: Tensor
    sigma: Tensor
    n: int | None = None
    extractor: str | None = None
    weights_sha256: str | None = None
    mu_s: Tensor | None = None
    sigma_s: Tensor | None = None
    features: Tensor | None = None

    def distance(self, other: Statistics) -> float:
        """Squared Fréchet distance to other statistics."""
        return frechet_distance(self.mu, self.sigma, other.mu, other.sigma)

    def spatial_distance(self, other: Statistics) -> float:
        """Squared Fréchet distance of the spatial features."""
        spatial = self.mu_s, self.sigma_s, other.mu_s, other.sigma_s
        assert None not in [None if part is None else True for part in spatial]
        return frechet_distance(*spatial)  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        """Write an npz with `mu` and `sigma`, the keys the field uses, and whatever else is known.

        Raises:
            ValueError: if the file cannot be written.
        """
        known = {"n": self.n, "extractor": self.extractor, "weights_sha256": self.weights_sha256}
        tensors = {"mu_s": self.mu_s, "sigma_s": self.sigma_s, "features": self.features}
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in known.items() if value is not None}
        arrays |= {key: value.cpu().numpy() for key, value in tensors.items() if value is not None}
        unfinished = path.with_name(f".{path.stem}.unfinished.npz")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(unfinished, mu=self.mu.cpu().numpy(), sigma=self.sigma.cpu().numpy(), **arrays)
            os.replace(unfinished, path)
        except OSError as error:
            if unfinished.exists():
                unfinished.unlink()
            raise ValueError(f"could not write {path} ({error}): free some space or give another file") from error

    @staticmethod
    def load(path: Path, extractor: FeatureExtractor | None = None) -> Statistics:
        """Read an npz of ours, ADM's (`mu`, `sigma`, `mu_s`, `sigma_s`, …) or JiT's (`mu`, `sigma`).

        Raises:
            ValueError: if the file holds no statistics, or they come from another extractor than `extractor`.
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
            statistics = _read(path)
        except (OSError, BadZipFile, EOFError, ValueError) as error:
            raise ValueError(f"the statistics in {path} are damaged ({error}): fetch or make the file again") from error
        if extractor is not None:
            statistics.check(extractor, str(path))
        return statistics

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between any two statistics."""
        digest = hashlib.sha256(self.mu.cpu().numpy().tobytes())
        digest.update(self.sigma.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, extractor: FeatureExtractor, where: str) -> None:
        """Raise a ValueError if these statistics cannot have come from `extractor`."""
        if self.extractor is not None and self.extractor != extractor.name:
            raise ValueError(
                f"the statistics in {where} were made by {self.extractor}, not by {extractor.name}: "
                "pass the extractor that made them"
            )
        if len(self.mu) != extractor.num_features:
            raise ValueError(
                f"the statistics in {where} have {len(self.mu)} features but {extractor.name} makes "
                f"{extractor.num_features}: pass the extractor that made them"
            )
        spatial = extractor.sizes.get("spatial")
        if self.mu_s is not None and spatial is not None and len(self.mu_s) != spatial:
            raise ValueError(
                f"the statistics in {where} have {len(self.mu_s)} spatial features but {extractor.name} makes "
                f"{spatial}: pass the extractor that made them"
            )
        hashes = self.weights_sha256, extractor.weights_sha256
        if None not in hashes and hashes[0] != hashes[1]:
            raise ValueError(
                f"the statistics in {where} were made with other weights of {extractor.name} "
                f"({hashes[0]}) than the ones loaded ({hashes[1]}): compute them again"
            )


def _read(path: Path) -> Statistics:
    with np.load(path, allow_pickle=False) as file:
        known: dict[str, Any] = {
            key: file[key].item() for key in ("n", "extractor", "weights_sha256") if key in file.files
        }
        moments: dict[str, Any] = {
            key: torch.from_numpy(np.asarray(file[key], dtype=np.float64))
            for key in ("mu", "sigma", "mu_s", "sigma_s")
            if key in file.files
        }
        if "features" in file.files:
            known["features"] = torch.from_numpy(np.asarray(file["features"], dtype=np.float32))
    for mu, sigma in (("mu", "sigma"), ("mu_s", "sigma_s")):
        if mu not in moments and sigma not in moments:
            continue
        shapes = [tuple(moments[key].shape) if key in moments else None for key in (mu, sigma)]
        if shapes[0] is None or len(shapes[0]) != 1 or shapes[1] != 2 * shapes[0]:
            raise ValueError(f"{mu} is {shapes[0]} and {sigma} is {shapes[1]}, not (D,) and (D, D)")
        if not all(moments[key].isfinite().all() for key in (mu, sigma)):
            raise ValueError(f"{mu} or {sigma} holds values that are not finite")
    return Statistics(**moments, **known)
