"""What finds objects in images and tells their colours: Mask2Former and CLIP, or a rule for drawn shapes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pixelgen.data.drawing import PALETTE, SHAPES
from pixelgen.encoders.clip import CLIP
from pixelgen.encoders.mask2former import Mask2Former
from pixelgen.evaluation.geneval.prompts import COCO, COLORS, Prompt
from pixelgen.evaluation.geneval.rules import CONFIDENCE, DetectedObject, Verdict, judge_objects
from pixelgen.evaluation.shapes_judge import Detection, judge

OTHER_NAMES = {  # what weights may call a class of GenEval's
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
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
GREY = (0x99, 0x99, 0x99)  # what everything outside of an object is painted with before its colour is told


class Detector(nn.Module):
    """Finds the objects that prompts may ask for. Subclasses implement `detect` and `colors_of`.

    Args:
        names: of the objects that it finds.
        colors: that it tells apart.
        protocol: what stands beside scores: networks and their revisions, or the name of the rule.
    """

    def __init__(self, names: Sequence[str], colors: Sequence[str], protocol: dict[str, Any]) -> None:
        super().__init__()
        self.names, self.colors, self.protocol = tuple(names), tuple(colors), protocol

    def detect(self, images: Tensor) -> list[list[DetectedObject]]:
        """Objects in each of the uint8 images (B, 3, H, W), in any order, with their confidence."""
        raise NotImplementedError

    def colors_of(self, image: Tensor, objects: Sequence[DetectedObject]) -> list[str]:
        """Colour of each of some objects of one class, in a uint8 image (3, H, W) that they were found in."""
        raise NotImplementedError

    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> list[Verdict]:
        """Verdicts on uint8 images (B, 3, H, W), each generated from its prompt."""
        return [
            judge_objects(prompt, objects, partial(self.colors_of, image))
            for prompt, image, objects in zip(prompts, images, self.detect(images), strict=True)
        ]

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise a ValueError about the first object or colour in prompts that this detector does not know."""
        for prompt in prompts:
            for spec in (*prompt.include, *prompt.exclude):
                unknown = f"object {spec.name!r}" if spec.name not in self.names else f"colour {spec.color!r}"
                if spec.name not in self.names or spec.color not in (None, *self.colors):
                    raise ValueError(
                        f"{type(self).__name__} knows no {unknown} ({prompt.text!r}): give prompts and a detector that "
                        "belong together"
                    )


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
        revisions = {"detector": mask2former, "detector_revision": segmenter.revision}
        super().__init__(COCO, COLORS, {**revisions, "clip": clip, "clip_revision": colors.revision})
        self.segmenter, self.clip, self.batch_size = segmenter, colors, batch_size
        self._sentences: dict[str, Tensor] = {}

    def detect(self, images: Tensor) -> list[list[DetectedObject]]:
        """Objects above the lowest confidence that counts."""
        return [
            [DetectedObject(COCO[found.label], found.box, found.score, found.mask) for found in instances]
            for part in images.split(self.batch_size)
            for instances in self.segmenter(part, CONFIDENCE)
        ]

    def colors_of(self, image: Tensor, objects: Sequence[DetectedObject]) -> list[str]:
        """The colour whose sentences go best with each object, cut out along its mask and box."""
        if not objects:
            return []
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        crops = [cut_out(picture, thing) for thing in objects]
        similarity = self.clip.pictures(crops) @ self._colors(objects[0].name).T
        return [COLORS[i] for i in similarity.argmax(1).tolist()]

    def _colors(self, name: str) -> Tensor:
        """One unit vector for each colour of an object (10, D): the mean of those of its sentences."""
        if name not in self._sentences:
            texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
            vectors = self.clip.sentences(texts).unflatten(0, (len(COLORS), len(TEMPLATES)))
            self._sentences[name] = F.normalize(vectors.mean(1), dim=-1)
        return self._sentences[name].to(self.clip.network.device)


def cut_out(picture: Image.Image, thing: DetectedObject) -> Image.Image:
    """An object's box out of a picture, with everything outside of its mask (`source`) painted grey."""
    mask = Image.fromarray(torch.as_tensor(thing.source).cpu().numpy())
    left, upper, right, lower = (round(edge) for edge in thing.box)
    return Image.composite(picture, Image.new("RGB", picture.size, GREY), mask).crop((left, upper, right, lower))


def _check_labels(labels: Sequence[str], source: str) -> None:
    """Refuse weights for other classes than COCO's in COCO's order."""
    for i, name in enumerate(COCO):
        if len(labels) != len(COCO) or labels[i].lower() not in (name, OTHER_NAMES.get(name)):
            found = f"{len(labels)} classes, number {i} of them {labels[i]!r}" if i < len(labels) else "too few classes"
            raise ValueError(
                f"{source} finds {found}, where COCO has {len(COCO)} and {name!r}: give weights of Mask2Former "
                "for instance segmentation of COCO"
            )


class ShapesDetector(Detector):
    """Finds shapes and their colours by rule (`shapes_judge`); an object's confidence is its likeness to its shape.

    Args:
        shapes: names from `SHAPES` to choose between.
        colors: names from `PALETTE` to choose between.
    """

    def __init__(self, shapes: Sequence[str] = tuple(SHAPES), colors: Sequence[str] = tuple(PALETTE)) -> None:
        super().__init__(shapes, colors, {"detector": "shapes judge"})

    def detect(self, images: Tensor) -> list[list[DetectedObject]]:
        """All shapes that are recognised."""
        height, width = images.shape[-2:]

        def in_pixels(thing: Detection) -> DetectedObject:
            left, upper, right, lower = thing.box
            box = left * width, upper * height, right * width, lower * height
            return DetectedObject(thing.shape, box, thing.match, thing.color)

        return [[*map(in_pixels, found)] for found in judge(images, self.names, self.colors)]

    def colors_of(self, image: Tensor, objects: Sequence[DetectedObject]) -> list[str]:
        """As they were recognised with their shapes."""
        return [thing.source for thing in objects]


def find_detector(detector: Detector | None, prompts: Sequence[Prompt]) -> Detector:
    """The detector that was given, or the one that prompts belong to, checked."""
    if detector is None:
        shapes, names = ShapesDetector(), {spec.name for prompt in prompts for spec in prompt.include}
        detector = shapes if names <= set(shapes.names) else CocoDetector()
    detector.check(prompts)
    return detector
