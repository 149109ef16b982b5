import pytest
import torch
from PIL import Image

from pixelgen.data.shapes import DEFAULT_COLORS, DEFAULT_SHAPES, ShapesDataset
from pixelgen.encoders.mask2former import Instance
from pixelgen.evaluation.geneval.detectors import OTHER_NAMES, CocoDetector, ShapesDetector, cut_out, find_detector
from pixelgen.evaluation.geneval.prompts import (
    COCO,
    COLORS,
    RELATIONS,
    ObjectSpec,
    Prompt,
    geneval_prompts,
    shapes_prompts,
    write_prompts,
)
from pixelgen.evaluation.geneval.rules import DetectedObject
from pixelgen.evaluation.geneval.score import geneval_scores
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
    prompt = Prompt("colors", (ObjectSpec("cup", color="red"),), "a photo of a red cup")
    verdicts = detector.judge(images, [prompt] * 3)
    assert [verdict.reasons for verdict in verdicts] == [("wanted 1 cup, found 0",)] * 3  # nothing is above 0.3
    revisions = detector.protocol
    assert revisions["detector"] == str(tiny_mask2former())
    assert len(revisions["detector_revision"]) == len(revisions["clip_revision"]) == 7 + 64


def test_batches_do_not_matter(detector, monkeypatch):
    monkeypatch.setattr("pixelgen.evaluation.geneval.detectors.CONFIDENCE", 0.004)
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
    prompt = Prompt("colors", (ObjectSpec("cup", color="blue"),), "a photo of a blue cup")
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
    crop = cut_out(picture, DetectedObject("cup", (4, 2, 8, 6), 0.9, mask))
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


def prompt_of(scene):
    """What GenEval would ask for to get this scene."""
    names = [thing.shape for thing in scene.objects]
    coloured = [ObjectSpec(thing.shape, color=thing.color) for thing in scene.objects]
    include, exclude = tuple(map(ObjectSpec, names)), ()
    if scene.kind == "counting":
        include, exclude = (ObjectSpec(names[0], len(names)),), (ObjectSpec(names[0], len(names) + 1),)
    elif scene.kind == "position":
        relation = next(relation for relation in RELATIONS if f" {relation} " in scene.caption)
        include = (ObjectSpec(names[1]), ObjectSpec(names[0], position=(relation, 0)))
    elif scene.kind in {"colors", "color_attr"}:
        include = tuple(coloured)
    return Prompt(scene.kind, include, scene.caption, exclude)


def drawn(count, size):
    """Images of every task, and the prompt of each."""
    pairs = [ShapesDataset(size, max_objects=4, seed=5).draw(i) for i in range(count)]
    return torch.stack([image for image, _ in pairs]), [prompt_of(scene) for _, scene in pairs]


@pytest.mark.parametrize("size", [32, 64])
def test_drawn_images_are_right(size):
    images, prompts = drawn(300, size)
    verdicts = ShapesDetector().judge(images, prompts)
    found = geneval_scores(prompts, [verdict.correct for verdict in verdicts])
    assert len(found) == 9
    assert min(found.values()) >= 0.97, found


def test_images_of_other_prompts_are_wrong():
    images, prompts = drawn(120, 32)
    shifted = prompts[1:] + prompts[:1]
    wrong = [(i, p) for i, p in zip(range(120), shifted, strict=True) if p.task in {"counting", "color_attr"}]
    verdicts = ShapesDetector().judge(images[[i for i, _ in wrong]], [prompt for _, prompt in wrong])
    assert len(wrong) > 20
    assert sum(verdict.correct for verdict in verdicts) <= 1


def test_colour_and_box():
    images = torch.full((1, 3, 100, 100), 130, dtype=torch.uint8)
    images[0, :, 50:80, 20:50] = torch.tensor([219, 38, 42], dtype=torch.uint8)[:, None, None]
    detector = ShapesDetector()
    (found,) = detector.detect(images)[0]
    assert (found.name, detector.colors_of(images[0], [found])) == ("square", ["red"])
    assert found.box == pytest.approx((20, 50, 50, 80), abs=1.6)
    prompt = Prompt("colors", (ObjectSpec("square", color="blue"),), "a photo of a blue square")
    (verdict,) = detector.judge(images, [prompt])
    assert verdict.reasons == ("wanted 1 blue square, found red",)


def test_prompts_are_those_of_the_data():
    scenes = [ShapesDataset(max_objects=4).draw(i)[1] for i in range(300)]
    known = set(write_prompts(DEFAULT_SHAPES, DEFAULT_COLORS, per_task=3000))
    common = [prompt_of(scene) in known for scene in scenes]
    assert sum(common) >= 0.9 * 300
    assert {prompt for prompt in shapes_prompts() if prompt.task != "color_attr"} <= known
    assert {prompt.task for prompt in shapes_prompts()} == {scene.kind for scene in scenes}
    assert {prompt.task for prompt in shapes_prompts(max_objects=1)} == {"single_object", "colors"}
    assert max(prompt.include[0].count for prompt in shapes_prompts(max_objects=3)) == 3


def test_foreign_prompts_are_refused():
    detector = ShapesDetector(["circle"], ["red"])
    detector.check(shapes_prompts(["circle"], ["red"]))
    with pytest.raises(ValueError, match="ShapesDetector knows no object 'square'"):
        detector.check(shapes_prompts(["square"], ["red"]))
    with pytest.raises(ValueError, match="knows no colour 'blue'"):
        detector.check(shapes_prompts(["circle"], ["blue"]))
    with pytest.raises(ValueError, match="knows no object"):
        ShapesDetector().check(geneval_prompts())


def test_detector_that_prompts_belong_to():
    assert isinstance(find_detector(None, shapes_prompts()), ShapesDetector)
    detector = CocoDetector(str(tiny_mask2former()), str(tiny_clip()))
    assert find_detector(detector, geneval_prompts()) is detector
    with pytest.raises(ValueError, match="CocoDetector knows no object 'triangle'"):
        find_detector(detector, shapes_prompts())
