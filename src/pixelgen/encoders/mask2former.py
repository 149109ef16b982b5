"""Instances of objects in images: Mask2Former (arXiv 2112.01527), with mmdet's pre- and post-processing."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

from pixelgen.encoders.frozen import IMAGENET_MEAN, IMAGENET_STD, FrozenEncoder, normalise
from pixelgen.encoders.hub import load_network, weights_name

SHORT, LONG = 800, 1333  # images are resized to this short side, unless the long one would exceed its limit
MAX_INSTANCES = 100  # of an image


@dataclass(frozen=True)
class Instance:
    """One object: number of its class, score in [0, 1], box (left, upper, right, lower) and mask (H, W) in pixels."""

    label: int
    score: float
    box: tuple[float, float, float, float]
    mask: Tensor


class Mask2Former(FrozenEncoder):
    """Finds instances of the classes that its weights know.

    Args:
        source: folder or repository of `Mask2FormerForUniversalSegmentation`, trained for instance segmentation.
        revision: branch, tag or commit on the hub.
    """

    def __init__(
        self, source: str | Path = "facebook/mask2former-swin-small-coco-instance", revision: str | None = None
    ) -> None:
        super().__init__(load_network("Mask2FormerForUniversalSegmentation", source, revision))
        config = self.network.config
        self.revision = weights_name(config, source, revision)
        self.labels = [str(config.id2label[i]) for i in range(len(config.id2label))]

    @torch.no_grad()
    def forward(self, images: Tensor, least: float = 0.0) -> list[list[Instance]]:
        """Instances with a score above `least` in uint8 images (B, 3, H, W), in no particular order."""
        height, width = images.shape[-2:]
        scale = min(SHORT / min(height, width), LONG / max(height, width))
        size = (int(height * scale + 0.5), int(width * scale + 0.5))
        x = F.interpolate(images.float() / 127.5 - 1, size, mode="bilinear", align_corners=False)
        x = normalise(x, IMAGENET_MEAN, IMAGENET_STD)
        x = F.pad(x, (0, -size[1] % 32, 0, -size[0] % 32))
        found = self.network(pixel_values=x)
        padded = (x.shape[-2], x.shape[-1])
        return [
            instances(logits, masks, padded, size, (height, width), least)
            for logits, masks in zip(found.class_queries_logits, found.masks_queries_logits, strict=True)
        ]


def instances(
    logits: Tensor,
    masks: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    original: tuple[int, int],
    least: float = 0.0,
) -> list[Instance]:
    """Instances from the queries of one image.

    Its `logits` are those of the classes, and none of them last (Q, C + 1), and of `masks` (Q, h, w) over the padded
    input, in whose upper left corner the resized image lies; boxes and masks found are those of the original image. The
    best pairs of query and class are taken, but for scores up to `least`; a score is the class' probability times the
    mean probability of the mask's pixels; a box encloses the pixels of its mask.
    """
    probabilities = logits.float().softmax(-1)[:, :-1]
    best, pairs = probabilities.flatten().topk(min(MAX_INSTANCES, probabilities.numel()))
    pairs, best = pairs[best > least], best[best > least]  # the mask can only lower it
    found = []
    for score, pair in zip(best.tolist(), pairs.tolist(), strict=True):
        query, label = divmod(pair, probabilities.shape[1])
        mask = F.interpolate(masks[query][None, None].float(), padded, mode="bilinear", align_corners=False)
        mask = mask[..., : resized[0], : resized[1]]
        mask = F.interpolate(mask, original, mode="bilinear", align_corners=False)[0, 0]
        inside = mask > 0
        confidence = score * float((mask.sigmoid() * inside).sum() / (inside.sum() + 1e-6))
        if math.isfinite(confidence) and confidence > least:
            left, upper, right, lower = masks_to_boxes(inside[None])[0].tolist()  # centres of pixels
            found.append(Instance(label, confidence, (left, upper, right + 1, lower + 1), inside))
    return found
