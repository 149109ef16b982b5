"""The crop that every published number rests on, and what the base class does with a data set."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from pixelgen.data.images import ImageData, centre_crop


def picture(rows):
    return Image.fromarray(np.array(rows, dtype=np.uint8))


class Numbers(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        index = key % self.length
        return {"image": torch.full((3, 4, 4), index, dtype=torch.uint8), "label": index % 2, "key": key}


class NumberData(ImageData):
    class_names = ["even", "odd"]  # noqa: RUF012

    def train_dataset(self):
        return Numbers(10)

    def val_dataset(self):
        return Numbers(5)


def test_crop_of_the_right_height_is_the_middle_columns():
    """7 wide, 4 high, to 4: no resizing, columns (7 - 4) // 2 = 1 to 4."""
    rows = [[10 * row + column for column in range(7)] for row in range(4)]
    assert np.array(centre_crop(picture(rows), 4)).tolist() == [row[1:5] for row in rows]


def test_crop_of_a_tall_image_is_the_middle_rows():
    """2 wide, 5 high, to 2: rows (5 - 2) // 2 = 1 and 2."""
    assert np.array(centre_crop(picture([[i, i + 1] for i in range(0, 50, 10)]), 2)).tolist() == [[10, 11], [20, 21]]


def test_crop_halves_by_averaging_two_by_two_pixels():
    """8 x 4 to 2: halved once to 4 x 2 by 2 x 2 means, then the middle columns."""
    rows = [[0, 4, 8, 16, 40, 44, 100, 100], [8, 4, 8, 16, 40, 44, 100, 100]] * 2
    assert np.array(centre_crop(picture(rows), 2)).tolist() == [[12, 42], [12, 42]]


def test_crop_halves_as_often_as_it_can_before_the_bicubic_step():
    """17 x 9 to 2: box to 8 x 4, box to 4 x 2, where 2 x 2 already fits: a constant stays, sizes are right."""
    assert np.array(centre_crop(picture(np.full((9, 17), 77)), 2)).tolist() == [[77, 77], [77, 77]]


def test_crop_between_factors_is_pillow_bicubic():
    """6 x 6 to 4 is one bicubic step (a = -0.5, widened by the factor 1.5), here against its definition."""
    signal = np.array([0, 0, 90, 200, 200, 120], dtype=np.float64)

    def cubic(x):
        x = abs(x)
        return (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0

    expected = []
    for i in range(4):
        weights = np.array([cubic((j + 0.5 - (i + 0.5) * 1.5) / 1.5) for j in range(6)])
        expected.append(float(weights @ signal / weights.sum()))
    row = np.array(centre_crop(picture([signal] * 6), 4))[0]
    np.testing.assert_allclose(row, np.clip(expected, 0, 255), atol=1)


@pytest.mark.parametrize("size", [(500, 375), (333, 501), (64, 65), (40, 30), (1000, 31)])
def test_crop_always_has_the_asked_size(size):
    assert centre_crop(Image.new("RGB", size), 32).size == (32, 32)


def test_crop_of_a_very_long_image_is_its_middle_and_takes_little():
    """Of 1 x 20 000 to 8, only the pixels around the middle matter; a moderate length gives the same."""
    ramp = np.arange(20_000) % 256
    middle = 20_000 // 2
    short = np.array(centre_crop(picture(ramp[None, middle - 20 : middle + 20]), 8))
    with mock.patch.object(Image.Image, "resize", autospec=True, side_effect=Image.Image.resize) as resize:
        assert np.array_equal(np.array(centre_crop(picture(ramp[None]), 8)), short)
        assert np.array_equal(np.array(centre_crop(picture(ramp[:, None]), 8)), short.T)
    assert max(max(call.args[1]) for call in resize.call_args_list) <= 8 * 64


def test_batches_have_the_agreed_types_and_the_last_is_dropped():
    batches = list(NumberData(image_size=4, batch_size=4).train_dataloader())
    assert len(batches) == 2
    assert batches[0]["image"].dtype == torch.uint8
    assert batches[0]["image"].shape == (4, 3, 4, 4)
    assert batches[0]["label"].dtype == torch.int64


def test_validation_is_in_order_and_complete():
    batches = list(NumberData(image_size=4, batch_size=2).val_dataloader())
    assert torch.cat([batch["key"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("limit", "number"), [(2, 4), (0.4, 4), (5, 10), (1.0, 10), (0, 10)])
def test_a_part_of_validation_is_spread_over_classes_that_lie_in_order(limit, number):
    data = NumberData(image_size=4, batch_size=2)
    data.val_dataset = data.train_dataset
    data.trainer = SimpleNamespace(limit_val_batches=limit, world_size=1, global_rank=0)
    keys = torch.cat([batch["key"] for batch in data.val_dataloader()]).tolist()
    assert keys[:number] == {4: [0, 3, 5, 9], 10: [*range(10)]}[number]
    assert sorted(keys) == [*range(10)]


def test_captions_of_a_part_are_spread_too():
    class Captioned(NumberData):
        def train_dataset(self):
            return [{"caption": f"{i}"} for i in range(10)]

    assert Captioned(image_size=4).prompts(4) == ["0", "3", "5", "9"]
    assert Captioned(image_size=4).prompts(12) == [f"{i % 10}" for i in range(12)]


def test_without_a_validation_set_there_is_no_validation():
    class TrainOnly(NumberData):
        def val_dataset(self):
            return None

    assert TrainOnly(image_size=4).val_dataloader() == []


def test_loading_leaves_the_global_generator_alone():
    data = NumberData(image_size=4, batch_size=2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(data.train_dataloader()), list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_change_nothing():
    alone, helped = (
        [batch["key"].tolist() for batch in NumberData(4, 3, num_workers=workers, seed=7).train_dataloader()]
        for workers in (0, 2)
    )
    assert alone == helped


def test_class_count_follows_the_names():
    assert NumberData(image_size=4).num_classes == 2


def test_a_batch_larger_than_the_data_set_is_refused():
    with pytest.raises(ValueError, match="10 training samples, fewer than one global batch of 16"):
        NumberData(image_size=4, batch_size=16).train_dataloader()


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"batch_size": 0}, {"num_workers": -1}, {"seed": -1}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NumberData(**{"image_size": 4, **wrong})
