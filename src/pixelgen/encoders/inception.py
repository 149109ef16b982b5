"""The Inception network that FIDs are computed with: torch-fidelity's port of the 2015 TensorFlow graph."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pixelgen.encoders.frozen import FeatureExtractor, check_weights, download


class Inception(FeatureExtractor):
    """2048-d pool features of Inception-v3, resized to 299 × 299 as TensorFlow 1 did: the standard FID's features.

    Args:
        weights: torch-fidelity's weights file, `weights-inception-2015-12-05-6726825d.pth`; downloaded once into
            torch's hub folder (`$TORCH_HOME/hub/checkpoints`) if not given.
        sha256: refuse weights with another SHA-256.
    """

    def __init__(self, weights: Path | None = None, sha256: str | None = None) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        path = weights or download(URL_INCEPTION_V3, "Inception-v3")
        found = check_weights(path, sha256, "Inception-v3")
        super().__init__(_build(path), "inception-v3-compat", 2048, found)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) → features (B, 2048), float32."""
        with torch.no_grad():
            return self.network(images)[0]


def _build(path: Path) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        # torch-fidelity loads with full pickle; this refuses a file that holds anything but tensors
        torch.load(path, map_location="cpu", weights_only=True)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    except Exception as error:
        raise ValueError(
            f"{path} does not hold torch-fidelity's Inception-v3 weights: "
            "download weights-inception-2015-12-05-6726825d.pth again"
        ) from error
