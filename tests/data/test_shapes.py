"""Shapes drawn by code: deterministic, readable, and captioned truthfully."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch

from pixelgen.data.drawing import EXTENT, PALETTE, SHAPES, coverage, pixel_centres
from pixelgen.data.shapes import ShapesData, ShapesDataset, class_names

ALL = tuple(SHAPES)


def draw(seed, index, *arguments, **settings):
    return ShapesDataset(*arguments, **settings, seed=seed).draw(index)


@pytest.fixture(scope="module")
def scenes():
    return [draw(3, i, shapes=ALL, max_objects=4)[1] for i in range(600)]


def box(thing, size=256):
    """(left, upper, right, lower) of a drawn object's mask, in pixels."""
    grid = pixel_centres(size)
    mask = coverage(thing.shape, grid, grid, (thing.x, thing.y), thing.radius, thing.angle, 1 / size) > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def relations(a, b):
    """GenEval's relations of box a to box b, after its specification."""
    size = (a[2] - a[0] + b[2] - b[0], a[3] - a[1] + b[3] - b[1])
    offset = [(a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2]
    shrunk = [math.copysign(max(abs(o) - 0.1 * s, 0), o) for o, s in zip(offset, size, strict=True)]
    dx, dy = (s / math.hypot(*offset) for s in shrunk)
    names = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in names.items() if holds}


def test_areas_of_the_shapes():
    """Covered area of radius 1 against plane geometry."""
    fine = np.linspace(-1.5, 1.5, 601, dtype=np.float32)
    area = {shape: coverage(shape, fine, fine, (0, 0), 1, 0, 0.005).sum() * 0.005**2 for shape in SHAPES}
    height = 1.7
    assert area["circle"] == pytest.approx(math.pi, rel=1e-3)
    assert area["square"] == pytest.approx(1.76**2, rel=1e-3)
    assert area["triangle"] == pytest.approx(height**2 / math.sqrt(3), rel=1e-3)
    assert area["star"] == pytest.approx(5 * 1.15 * 0.53 * math.sin(math.pi / 5), rel=1e-3)
    assert area["cross"] == pytest.approx(2 * (2 * 0.68) - 0.68**2, rel=1e-3)
    assert area["ring"] == pytest.approx(math.pi * (1.02**2 - 0.54**2), rel=1e-3)
    assert all(1.6 < value < 3.2 for value in area.values())


@pytest.mark.parametrize("shape", ALL)
def test_upright_shapes_are_centred_and_stay_within_their_extent(shape):
    fine = np.linspace(-1.5, 1.5, 601, dtype=np.float32)
    mask = coverage(shape, fine, fine, (0, 0), 1, 0, 0.005) > 0.5
    for axis in (0, 1):
        inside = fine[mask.any(axis)]
        assert abs(inside[0] + inside[-1]) < 0.08
        assert 0.8 < inside[-1] < 1.1
    assert np.hypot(fine[:, None], fine[None, :])[mask].max() < EXTENT


def test_angles_turn_clockwise():
    grid = np.linspace(-1.5, 1.5, 61, dtype=np.float32)
    upright, turned = (coverage("triangle", grid, grid, (0, 0), 1, angle, 0.05) for angle in (0, 20))
    assert upright[:20].argmax(1).max() > 0
    tip = turned[np.flatnonzero(turned.any(1))[0]].argmax()
    assert grid[tip] > 0.1


@pytest.mark.parametrize("size", [32, 64, 100])
def test_same_seed_and_index_give_the_same_bytes(size):
    forward = [draw(1, i, size)[0] for i in range(20)]
    backward = [draw(1, i, size)[0] for i in reversed(range(20))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert forward[0].dtype == torch.uint8
    assert forward[0].shape == (3, size, size)
    assert len({image.numpy().tobytes() for image in forward}) == 20
    assert not torch.equal(forward[0], draw(2, 0, size)[0])


def test_the_size_does_not_change_the_scene():
    assert draw(0, 7, 32)[1] == draw(0, 7, 128)[1]


def test_epochs_draw_new_images_and_workers_the_same():
    dataset = ShapesDataset(seed=4, length=10)
    assert not torch.equal(dataset[3]["image"], dataset[13]["image"])
    alone, helped = (
        list(ShapesData(batch_size=4, num_workers=workers, seed=2, length=20, captions=True).train_dataloader())
        for workers in (0, 2)
    )
    assert len(alone) == 5
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])
        assert a["caption"] == b["caption"]


def test_validation_shares_nothing_with_any_training_set():
    pictures = [
        item["image"].numpy().tobytes()
        for seed in range(3)
        for dataset in (ShapesData(seed=seed).train_dataset(), ShapesData(seed=seed, val_length=50).val_dataset())
        for item in (dataset[i] for i in range(50))
    ]
    assert len(set(pictures)) == len(pictures) == 300


def test_labels_and_class_names_agree():
    data = ShapesData(shapes=["star", "ring"], colors=["blue", "orange", "white"])
    assert data.class_names == ["blue star", "orange star", "white star", "blue ring", "orange ring", "white ring"]
    assert data.num_classes == 6
    counts = Counter()
    for i in range(300):
        scene = data.train_dataset().draw(i)[1]
        thing = scene.objects[0]
        assert data.class_names[scene.label] == f"{thing.color} {thing.shape}"
        assert data.train_dataset()[i]["label"] == scene.label
        counts[scene.label] += 1
    assert set(counts) == set(range(6))
    assert min(counts.values()) > 25


def test_the_default_is_forty_classes():
    names = ShapesData().class_names
    assert names == class_names()
    assert (len(names), names[0], names[11]) == (40, "red circle", "orange square")


@pytest.mark.parametrize("color", list(PALETTE))
def test_every_colour_stands_out_from_every_background(color):
    for i in range(40):
        image, scene = draw(8, i, 48, colors=(color,))
        thing, grid = scene.objects[0], pixel_centres(48)
        mask = coverage(thing.shape, grid, grid, (thing.x, thing.y), thing.radius, thing.angle, 1 / 48)
        pixels = image.numpy().astype(float)
        inside, outside = pixels[:, mask == 1], pixels[:, mask == 0]
        assert np.abs(inside.mean(1) - PALETTE[color]).max() < 14
        assert np.linalg.norm(inside.mean(1)[:, None] - outside, axis=0).min() > 60


def test_objects_lie_inside_and_apart(scenes):
    for scene in scenes:
        boxes = [box(thing) for thing in scene.objects]
        assert min(min(b) for b in boxes) >= 0
        assert max(max(b) for b in boxes) <= 256
        for i, a in enumerate(scene.objects):
            for b in scene.objects[:i]:
                assert math.dist((a.x, a.y), (b.x, b.y)) > a.radius + b.radius + 0.05


def test_positions_hold_by_the_rule_of_geneval(scenes):
    positions = [scene for scene in scenes if scene.kind == "position"]
    assert len(positions) > 60
    for scene in positions:
        words = re.fullmatch(r"a photo of an? (\w+) (left of|right of|above|below) an? (\w+)", scene.caption)
        first, second = scene.objects
        assert words.groups()[::2] == (first.shape, second.shape)
        assert relations(box(first), box(second)) == {words[2]}


def test_captions_follow_the_grammar_and_tell_the_truth(scenes):
    numbers = {2: "two", 3: "three", 4: "four"}
    for scene in scenes:
        names = [thing.shape for thing in scene.objects]
        words = [f"{'an' if t.color == 'orange' else 'a'} {t.color} {t.shape}" for t in scene.objects]
        plural = {"cross": "crosses"}.get(names[0], names[0] + "s")
        expected = {
            "single_object": f"a photo of a {names[0]}",
            "colors": f"a photo of {words[0]}",
            "two_object": f"a photo of a {names[0]} and a {names[-1]}",
            "counting": f"a photo of {numbers.get(len(names))} {plural}",
            "color_attr": f"a photo of {words[0]} and {words[-1]}",
            "position": scene.caption,
        }
        assert scene.caption == expected[scene.kind]
        assert (scene.label is None) == (len(names) > 1)
        assert scene.kind != "counting" or set(names) == {names[0]}
        assert scene.kind not in {"two_object", "position", "color_attr"} or names[0] != names[1]
    assert Counter(scene.kind for scene in scenes).keys() == {
        "single_object", "colors", "two_object", "counting", "color_attr", "position",
    }  # fmt: skip


def test_items_carry_what_was_asked_for():
    assert set(ShapesDataset()[0]) == {"image", "label"}
    assert set(ShapesDataset(captions=True)[0]) == {"image", "label", "caption"}
    assert set(ShapesDataset(max_objects=2, captions=True)[0]) == {"image", "caption"}
    assert ShapesData(max_objects=2).num_classes is None
    assert all(len(draw(0, i, max_objects=2)[1].objects) <= 2 for i in range(100))
    assert {draw(0, i, shapes=("heart",), max_objects=3)[1].kind for i in range(50)} == {
        "single_object", "colors", "counting",
    }  # fmt: skip


def test_tasks_come_by_their_weights():
    dataset = ShapesDataset(max_objects=2, tasks={"colors": 3, "position": 1, "counting": 0})
    scenes = [dataset.draw(i)[1] for i in range(400)]
    counts = Counter(scene.kind for scene in scenes)
    assert counts.keys() == {"colors", "position"}
    assert abs(counts["colors"] - 300) < 4 * (400 * 0.75 * 0.25) ** 0.5
    data = ShapesData(max_objects=2, captions=True, tasks={"counting": 1})
    assert all(data.train_dataset()[i]["caption"].startswith("a photo of two ") for i in range(20))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": 16}, "image_size is 16: give a whole number of at least 32 and at most 256"),
        ({"image_size": 257}, "at most 256"),
        ({"max_objects": 5}, "max_objects is 5: give a whole number of at least 1 and at most 4"),
        (
            {"tasks": {"color": 1}},
            r"tasks is \['color'\]: give one or more different names out of single_object, colors",
        ),
        ({"tasks": {"position": 1}}, r"tasks is \['position'\]: give one or more different names out of"),
        ({"tasks": {"colors": 0, "single_object": 0}}, "give weights of at least 0, not all of them 0"),
        ({"tasks": {"colors": -1, "single_object": 2}}, "give weights of at least 0, not all of them 0"),
        ({"shapes": ["circle", "hexagon"]}, r"shapes is .*hexagon.*: give one or more different names out of circle,"),
        ({"colors": []}, "colors is"),
        ({"colors": ["red", "red"]}, "different names"),
        ({"length": 0}, "length is 0"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ShapesData(**wrong)
