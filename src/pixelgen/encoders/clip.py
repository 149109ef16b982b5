"""Images and sentences as vectors of one space: CLIP (arXiv 2103.00020)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from pixelgen.checks import checked
from pixelgen.encoders.frozen import FrozenEncoder
from pixelgen.encoders.hub import load_from, load_network, weights_name

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CLIP(FrozenEncoder):
    """Unit vectors of images and of sentences: their product says how well they go together.

    Args:
        source: folder or repository of a `CLIPModel` with its tokenizer.
        revision: branch, tag or commit on the hub.
    """

    @checked()
    def __init__(self, source: str | Path = "openai/clip-vit-large-patch14", revision: str | None = None) -> None:
        super().__init__(load_network("CLIPModel", source, revision))
        self.revision = weights_name(self.network.config, source, revision)
        self.tokenizer = load_from("CLIPTokenizer", source, revision)

    @torch.no_grad()
    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D)."""
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.network.device)
        pooled = self.network.text_model(**tokens).pooler_output
        return F.normalize(self.network.text_projection(pooled), dim=-1)

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors (N, D) of the middle squares of images of any size."""
        side = self.network.config.vision_config.image_size
        pixels = torch.stack([_prepare(image, side) for image in images]).to(self.network.device)
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.network.visual_projection(pooled), dim=-1)


def _prepare(image: Image.Image, side: int) -> Tensor:
    """The middle square of an image, (3, side, side), normalised."""
    small = TF.resize(image.convert("RGB"), side, TF.InterpolationMode.BICUBIC)
    return TF.normalize(TF.to_tensor(TF.center_crop(small, side)), MEAN, STD)
