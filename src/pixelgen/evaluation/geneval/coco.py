"""GenEval's detector: the 80 classes of COCO by Mask2Former, their colours by CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pixelgen.encoders.clip import CLIP
from pixelgen.encoders.mask2former import Mask2Former
from pixelgen.evaluation.geneval.detectors import Detector
from pixelgen.evaluation.geneval.prompts import COCO, COLORS
from pixelgen.evaluation.geneval.rules import CONFIDENCE, Found

OTHER_NAMES = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
    "computer mouse": "mouse",
    "tv remote": "remote",
    "computer keyboard": "keyboard",
}
"""What weights may call a class of GenEval's."""

TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")

GREY = (0x99, 0x99, 0x99)
"""What everything outside of an object is painted with before its colour is told."""


class CocoDetector(Detector):
    """Mask2Former (Swin-S, COCO) and CLIP (ViT-L/14): GenEval's protocol by way of transformers.

    The original's Mask2Former is that of mmdet, the same architecture with weights of another training, so single
    verdicts may differ.

    Args:
        mask2former: folder, or repository on the hub.
        clip: folder, or repository on the hub.
        mask2former_revision: branch, tag or commit on the hub.
        clip_revision: branch, tag or commit on the hub.
        batch_size: images that Mask2Former looks at together.
    """

    def __init__(
        self,
        mask2former: str = "facebook/mask2former-swin-small-coco-instance",
        clip: str = "openai/clip-vit-large-patch14",
        mask2former_revision: str | None = None,
        clip_revision: str | None = None,
        batch_size: int = 8,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"the detector's batch_size is {batch_size}: give at least 1")
        segmenter, colors = Mask2Former(mask2former, mask2former_revision), CLIP(clip, clip_revision)
        _check_labels(segmenter.labels, mask2former)
        revisions = {
            "detector": mask2former,
            "detector_revision": segmenter.revision,
            "clip": clip,
            "clip_revision": colors.revision,
        }
        super().__init__(COCO, COLORS, revisions)
        self.segmenter, self.clip, self.batch_size = segmenter, colors, batch_size
        self._sentences: dict[str, Tensor] = {}

    def detect(self, images: Tensor) -> list[list[Found]]:
        """Objects above the lowest confidence that counts."""
        parts = (self.segmenter(part, CONFIDENCE) for part in images.split(self.batch_size))
        return [
            [Found(COCO[found.label], found.box, found.score, found.mask) for found in instances]
            for part in parts
            for instances in part
        ]

    def colors_of(self, image: Tensor, objects: Sequence[Found]) -> list[str]:
        """The colour whose sentences go best with each object, cut out along its mask and box."""
        if not objects:
            return []
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        likeness = self.clip.pictures([cut_out(picture, thing) for thing in objects]) @ self._colors(objects[0].name).T
        return [COLORS[i] for i in likeness.argmax(1).tolist()]

    def _colors(self, name: str) -> Tensor:
        """One unit vector for each colour of an object (10, D): the mean of those of its sentences."""
        if name not in self._sentences:
            texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
            vectors = self.clip.sentences(texts).unflatten(0, (len(COLORS), len(TEMPLATES)))
            self._sentences[name] = F.normalize(vectors.mean(1), dim=-1)
        return self._sentences[name].to(self.clip.network.device)


def cut_out(picture: Image.Image, thing: Found) -> Image.Image:
    """An object's box out of a picture, with everything outside of its mask (`source`) painted grey."""
    mask = Image.fromarray(torch.as_tensor(thing.source).cpu().numpy())
    left, upper, right, lower = (round(edge) for edge in thing.box)
    return Image.composite(picture, Image.new("RGB", picture.size, GREY), mask).crop((left, upper, right, lower))


def _check_labels(labels: Sequence[str], source: str) -> None:
    """Refuse weights for other classes than COCO's in COCO's order."""
    known = [(name, OTHER_NAMES.get(name, name)) for name in COCO]
    for i, names in enumerate(known):
        if len(labels) != len(COCO) or labels[i].lower() not in names:
            found = f"{len(labels)} classes, number {i} of them {labels[i]!r}" if i < len(labels) else "too few classes"
            raise ValueError(
                f"{source} finds {found}, where COCO has {len(COCO)} and {names[0]!r}: give weights of Mask2Former "
                "for instance segmentation of COCO"
            )
