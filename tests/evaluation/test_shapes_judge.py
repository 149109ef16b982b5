"""The judge reads back what was drawn, and says nothing where nothing was."""

from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from scipy import ndimage

from pixelgen.data.drawing import SHAPES, background
from pixelgen.data.shapes import DEFAULT_SHAPES, ShapesDataset, class_names
from pixelgen.evaluation.shapes_judge import ShapesAccuracy, judge

ALL = tuple(SHAPES)


def drawn(count, size, shapes=ALL, max_objects=1, seed=11):
    dataset = ShapesDataset(size, shapes, max_objects=max_objects, seed=seed)
    pairs = [dataset.draw(i) for i in range(count)]
    return torch.stack([image for image, _ in pairs]), [scene for _, scene in pairs]


def degraded(images, blur, noise):
    """Gaussian blur of so many pixels, then Gaussian noise of so many grey levels."""
    pixels = ndimage.gaussian_filter(images.numpy().astype(float), (0, 0, blur, blur))
    pixels += np.random.default_rng(0).normal(0, noise, pixels.shape)
    return torch.from_numpy(pixels.round().clip(0, 255).astype(np.uint8))


def accuracy(images, scenes, shapes):
    metric = ShapesAccuracy(class_names(shapes))
    metric.update(images, torch.tensor([scene.label for scene in scenes]))
    return {name: float(value) for name, value in metric.compute().items()}


def share_found(images, scenes):
    """Share of the objects of which the judge names colour and shape."""
    right = total = 0
    for detections, scene in zip(judge(images), scenes, strict=True):
        wanted = Counter((thing.color, thing.shape) for thing in scene.objects)
        right += (wanted & Counter((d.color, d.shape) for d in detections)).total()
        total += wanted.total()
    return right / total


@pytest.mark.parametrize("shapes", [ALL, DEFAULT_SHAPES], ids=["eight", "four"])
@pytest.mark.parametrize(("size", "count"), [(32, 1000), (64, 400), (128, 200)])
def test_reads_back_drawn_images(size, count, shapes):
    images, scenes = drawn(count, size, shapes)
    assert min(accuracy(images, scenes, shapes).values()) >= 0.995


@pytest.mark.parametrize(("blur", "noise"), [(0.7, 0), (0, 15), (0, 30), (1, 10)])
def test_reads_blurred_and_noisy_images(blur, noise):
    images, scenes = drawn(400, 32)
    assert min(accuracy(degraded(images, blur, noise), scenes, ALL).values()) >= 0.99


@pytest.mark.parametrize(("size", "count"), [(32, 500), (64, 250)])
def test_finds_each_of_several_objects(size, count):
    assert share_found(*drawn(count, size, max_objects=4)) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("max_objects", [1, 4])
def test_reads_back_many_images(size, max_objects):
    images, scenes = drawn(2000 * 32 // size, size, max_objects=max_objects, seed=12)
    assert share_found(images, scenes) >= 0.995
    assert share_found(degraded(images, size / 48, 12), scenes) >= 0.97


@pytest.mark.parametrize("size", [32, 64])
def test_says_nothing_about_backgrounds_and_noise(size):
    random = np.random.default_rng(0)
    empty = np.stack([background(Random(i), size) for i in range(200)])
    white_noise = [random.normal(128, deviation, (100, 3, size, size)) for deviation in (15, 40, 80, 160)]
    uniform = random.uniform(0, 256, (100, 3, size, size))
    blobs = ndimage.gaussian_filter(random.normal(0, 1, (100, 3, size, size)), (0, 0, size / 16, size / 16))
    for pictures in (empty, *white_noise, uniform, 128 + 60 * blobs / blobs.std()):
        answers = judge(torch.from_numpy(pictures.clip(0, 255).astype(np.uint8)))
        assert sum(map(bool, answers)) <= 0.01 * len(answers)


@pytest.mark.parametrize("color", [(219, 38, 42), (0, 0, 0), (255, 255, 255), (135, 135, 135)])
def test_says_nothing_about_an_image_of_one_colour(color):
    image = torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    assert judge(image[None]) == [[]]
    assert judge(image[None][:0]) == []


def test_box_and_area_are_those_of_the_object():
    """A square of 30 x 30 pixels at (20, 50), painted by hand."""
    images = torch.full((1, 3, 100, 100), 130, dtype=torch.uint8)
    images[0, :, 50:80, 20:50] = torch.tensor([219, 38, 42], dtype=torch.uint8)[:, None, None]
    (found,) = judge(images)[0]
    assert (found.color, found.shape) == ("red", "square")
    np.testing.assert_allclose(found.box, (0.2, 0.5, 0.5, 0.8), atol=1 / 64)
    assert found.area == pytest.approx(0.09, abs=0.005)
    assert 0.95 < found.match <= 1


def test_answers_stay_within_the_given_names():
    images, _ = drawn(60, 32)
    for detections in judge(images, ["circle", "star"], ["red", "blue"]):
        assert all(d.shape in {"circle", "star"} and d.color in {"red", "blue"} for d in detections)


def test_largest_object_comes_first():
    images, _ = drawn(80, 32, max_objects=4)
    areas = [[detection.area for detection in detections] for detections in judge(images)]
    assert all(a == sorted(a, reverse=True) for a in areas)
    assert max(map(len, areas)) == 4


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match=r"needs uint8 images .* not torch.float32"):
        judge(torch.zeros(1, 3, 32, 32))


def test_metric_counts_colour_shape_and_both():
    """Five images: all right, wrong colour, wrong shape, both wrong, nothing there."""
    images, scenes = drawn(4, 32, DEFAULT_SHAPES)
    names = class_names()
    labels = [scene.label for scene in scenes]
    labels[1] = labels[1] // 10 * 10 + (labels[1] + 1) % 10
    labels[2] = (labels[2] + 10) % 40
    labels[3] = (labels[3] // 10 * 10 + (labels[3] + 1) % 10 + 10) % 40
    images = torch.cat([images, torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)])
    metric = ShapesAccuracy(names)
    metric.update(images[:2], torch.tensor(labels[:2]))
    metric.update(images[2:], torch.tensor([*labels[2:], 0]))
    result = {name: round(float(value), 6) for name, value in metric.compute().items()}
    assert result == {"color_accuracy": 0.4, "shape_accuracy": 0.4, "accuracy": 0.2}


def test_metric_refuses_foreign_classes():
    with pytest.raises(ValueError, match="'tabby cat' is no class of ShapesData"):
        ShapesAccuracy(["red circle", "tabby cat"])
