"""Where images and captions stand in a grid."""

import numpy as np
import torch

from pixelgen.samples.grid import PADDING, enlargement, grid


def images(count, height, width):
    values = 20 * (1 + torch.arange(count, dtype=torch.uint8))
    return values.view(-1, 1, 1, 1).expand(count, 3, height, width)


def test_a_grid_has_white_lines_between_images():
    picture = np.array(grid(images(5, 4, 6), 3))
    assert picture.shape == (2 + 2 * 6, 2 + 3 * 8, 3)
    for i, (top, left) in enumerate([(2, 2), (2, 10), (2, 18), (8, 2), (8, 10)]):
        assert (picture[top : top + 4, left : left + 6] == 20 * (i + 1)).all()
    assert (picture[:, [0, 1, 8, 9, 16, 17, 24, 25]] == 255).all()


def test_captions_stand_below_images_large_enough_to_read_them():
    captions = ["a red circle", "a photo of a blue square above a green and rather large triangle", ""]
    picture = np.array(grid(images(3, 16, 32), 2, captions))
    assert enlargement(32) == 4
    assert enlargement(128) == 1
    height, width = 64, 128
    assert picture.shape[1] == PADDING + 2 * (width + PADDING)
    assert (picture[2 : 2 + height, 2 : 2 + width] == 20).all()
    assert (picture[2 : 2 + height, 4 + width : 4 + 2 * width] == 40).all()
    below = picture[2 + height :]
    (rows,) = np.nonzero((below[:, :width] == 60).all(axis=(1, 2)) | (below[:, 10, 0] == 60))
    second = rows[0]  # the next row begins below the longest caption of the first
    text = below[:second] < 128
    assert text[:, 2 : 2 + width].any()
    assert text[:, 4 + width :].any()
    assert np.nonzero(text[:, 4 + width :].any(axis=(1, 2)))[0].max() > 22  # in more than one line
    assert not (below[second + height :] < 128).any()


def test_a_long_caption_is_cut():
    long = grid(images(1, 128, 128), 1, ["words " * 200])
    longer = grid(images(1, 128, 128), 1, ["words " * 300])
    assert long.size == longer.size
    assert np.array_equal(np.array(long), np.array(longer))
