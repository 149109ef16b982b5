"""The Inception network that FIDs are computed with: torch-fidelity's port of the 2015 TensorFlow graph."""

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixelgen.checks import checked
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.encoders.hub import download, read_weights, verify_weights

NAMES = {"frechet": "fid", "spatial_frechet": "sfid"}  # the others are called by their own name
INCEPTION = "inception-v3-compat"
SPATIAL = 7  # channels of 17 × 17 that sFID compares


class Inception(FeatureExtractor):
    """Inception-v3 on images resized to 299 × 299 as TensorFlow 1 did: the standard FID's features.

    `features` are the 2048 averages before the classifier; `spatial` the first 7 channels of `mixed_6/conv` in the
    TensorFlow graph, after the ReLU, row by row and channels last (2023 numbers, as in ADM's sFID, arXiv:2105.05233);
    `logits` those of the 1008 classes without bias, as the Inception Score is computed.

    Args:
        weights: torch-fidelity's weights file, `weights-inception-2015-12-05-6726825d.pth`; downloaded once into
            torch's hub folder (`$TORCH_HOME/hub/checkpoints`) if not given.
        sha256: refuse weights with another SHA-256.
    """

    @checked()
    def __init__(self, weights: str | Path | None = None, sha256: str | None = None) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
        except ModuleNotFoundError as error:
            raise ValueError("Inception needs torch-fidelity: pip install torch-fidelity") from error
        path = Path(weights or download(URL_INCEPTION_V3, "Inception-v3"))
        found = verify_weights(path, sha256, "Inception-v3")
        super().__init__(_build(path), INCEPTION, 2048, found)

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths of the three vectors."""
        return {"features": 2048, "spatial": 17 * 17 * SPATIAL, "logits": 1008}

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) → features (B, 2048), float32."""
        return self.outputs(images)["features"]

    @torch.no_grad()
    def outputs(self, images: Tensor, wanted: Collection[str] = ("features",)) -> dict[str, Tensor]:
        """uint8 images (B, 3, H, W) → the wanted ones of `features`, `spatial`, `logits`, float32, in one pass."""
        found: dict[str, Tensor] = {}

        def keep_spatial(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found["spatial"] = output[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)

        layer = self.network.Mixed_6d.branch1x1  # what torch-fidelity's port calls `mixed_6/conv`
        hook = layer.register_forward_hook(keep_spatial)
        try:
            found["features"], found["logits"] = self.network(images)
        finally:
            hook.remove()
        return {name: found[name] for name in wanted}

    def metric(self, name: str) -> str:
        """FID, sFID and the others under their plain names."""
        return NAMES.get(name, name)


def _build(path: Path) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = read_weights(path, "Inception-v3")

    class Port(FeatureExtractorInceptionV3):
        """Its constructor loads a file with full pickle: it gets an empty one, and the tensors read safely instead."""

        def load_state_dict(self, empty: Any, *args: Any, **options: Any) -> Any:
            return super().load_state_dict(state)

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    try:
        return Port(INCEPTION, ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold torch-fidelity's Inception-v3 weights: "
            "download weights-inception-2015-12-05-6726825d.pth again"
        ) from error
