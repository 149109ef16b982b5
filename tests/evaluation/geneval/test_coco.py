import pytest
import torch
from PIL import Image

from pixelgen.encoders.mask2former import Instance
from pixelgen.evaluation.geneval.coco import OTHER_NAMES, CocoDetector, cut_out
from pixelgen.evaluation.geneval.prompts import COCO, COLORS, Prompt, Wanted
from pixelgen.evaluation.geneval.rules import Found
from tiny_transformers import tiny_clip, tiny_mask2former


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Images are enlarged to 64 px, not to 800."""
    monkeypatch.setattr("pixelgen.encoders.mask2former.SHORT", 64)


@pytest.fixture(scope="module")
def detector():
    return CocoDetector(str(tiny_mask2former()), str(tiny_clip()))


def test_random_networks_judge(detector):
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prompt = Prompt("colors", (Wanted("cup", color="red"),), "a photo of a red cup")
    verdicts = detector.judge(images, [prompt] * 3)
    assert [verdict.reasons for verdict in verdicts] == [("wanted 1 cup, found 0",)] * 3  # nothing is above 0.3
    revisions = detector.protocol
    assert revisions["detector"] == str(tiny_mask2former())
    assert len(revisions["detector_revision"]) == len(revisions["clip_revision"]) == 7 + 64


def test_batches_do_not_matter(detector, monkeypatch):
    monkeypatch.setattr("pixelgen.evaluation.geneval.coco.CONFIDENCE", 0.004)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = detector.detect(images)
    monkeypatch.setattr(detector, "batch_size", 1)
    single = detector.detect(images)
    assert len(whole) == 3
    assert [[(thing.name, thing.box) for thing in found] for found in whole] == [
        [(thing.name, thing.box) for thing in found] for found in single
    ]
    assert sum(map(len, whole)) > 0


def test_colours_of_what_was_found(detector, monkeypatch):
    """In the place of CLIP, a vector that is a colour."""
    asked = []

    def sentences(texts):
        asked.extend(texts)
        return torch.stack([torch.eye(10)[next(i for i, c in enumerate(COLORS) if c in text)] for text in texts])

    def pictures(crops):
        return torch.stack([torch.eye(10)[4 if crop.getpixel((0, 0)) == (38, 84, 220) else 0] for crop in crops])

    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[5:15, 4:8] = True
    cup = Instance(41, 0.95, (4.0, 5.0, 8.0, 15.0), mask)
    monkeypatch.setattr(detector.clip, "sentences", sentences)
    monkeypatch.setattr(detector.clip, "pictures", pictures)
    monkeypatch.setattr(detector.segmenter, "forward", lambda images, least: [[cup] for _ in images])
    images = torch.full((2, 3, 20, 20), 100, dtype=torch.uint8)
    images[0, :, 5:15, 4:8] = torch.tensor([38, 84, 220], dtype=torch.uint8)[:, None, None]
    prompt = Prompt("colors", (Wanted("cup", color="blue"),), "a photo of a blue cup")
    verdicts = detector.judge(images, [prompt] * 2)
    assert [verdict.reasons for verdict in verdicts] == [(), ("wanted 1 blue cup, found red",)]
    first = ["a photo of a red cup", "a photo of a red-colored cup", "a photo of a red object"]
    assert asked[:4] == [*first, "a photo of a orange cup"]
    assert len(asked) == 30  # asked once, for both images


def test_cut_out_paints_what_is_outside():
    picture = Image.new("RGB", (20, 10), "white")
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[2:6, 4:8] = True
    mask[2, 4] = False
    crop = cut_out(picture, Found("cup", (4, 2, 8, 6), 0.9, mask))
    assert crop.size == (4, 4)
    assert crop.getpixel((0, 0)) == (0x99, 0x99, 0x99)
    assert crop.getpixel((1, 0)) == crop.getpixel((3, 3)) == (255, 255, 255)


def test_labels_of_the_weights():
    other = tuple(OTHER_NAMES.get(name, name) for name in COCO)
    CocoDetector(str(tiny_mask2former(other)), str(tiny_clip()))
    with pytest.raises(ValueError, match="number 1 of them 'boat', where COCO has 80 and 'bicycle'"):
        CocoDetector(str(tiny_mask2former(("person", "boat", *COCO[2:]))), str(tiny_clip()))
    with pytest.raises(ValueError, match="finds 2 classes"):
        CocoDetector(str(tiny_mask2former(("person", "boat"))), str(tiny_clip()))
