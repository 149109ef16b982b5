import pytest
import torch

from pixelgen.data.shapes import DEFAULT_COLORS, DEFAULT_SHAPES, ShapeSettings, draw
from pixelgen.evaluation.geneval.prompts import RELATIONS, Prompt, Wanted, geneval_prompts, write_prompts
from pixelgen.evaluation.geneval.score import scores
from pixelgen.evaluation.geneval.shapes import ShapesDetector, shapes_prompts


def prompt_of(scene):
    """What GenEval would ask for to get this scene."""
    names = [thing.shape for thing in scene.objects]
    coloured = [Wanted(thing.shape, color=thing.color) for thing in scene.objects]
    include, exclude = tuple(map(Wanted, names)), ()
    if scene.kind == "counting":
        include, exclude = (Wanted(names[0], len(names)),), (Wanted(names[0], len(names) + 1),)
    elif scene.kind == "position":
        relation = next(relation for relation in RELATIONS if f" {relation} " in scene.caption)
        include = (Wanted(names[1]), Wanted(names[0], position=(relation, 0)))
    elif scene.kind in {"colors", "color_attr"}:
        include = tuple(coloured)
    return Prompt(scene.kind, include, scene.caption, exclude)


def drawn(count, size):
    """Images of every task, and the prompt of each."""
    pairs = [draw(5, i, ShapeSettings(size, max_objects=4)) for i in range(count)]
    return torch.stack([image for image, _ in pairs]), [prompt_of(scene) for _, scene in pairs]


@pytest.mark.parametrize("size", [32, 64])
def test_drawn_images_are_right(size):
    images, prompts = drawn(300, size)
    verdicts = ShapesDetector().judge(images, prompts)
    found = scores(prompts, [verdict.correct for verdict in verdicts])
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
    prompt = Prompt("colors", (Wanted("square", color="blue"),), "a photo of a blue square")
    (verdict,) = detector.judge(images, [prompt])
    assert verdict.reasons == ("wanted 1 blue square, found red",)


def test_prompts_are_those_of_the_data():
    scenes = [draw(0, i, ShapeSettings(max_objects=4))[1] for i in range(300)]
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
