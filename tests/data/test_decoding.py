"""Bytes of a sample: what makes an item, and what is unusable for which reason. Nothing in a file ends a run."""

import pytest
import torch

from pixelgen.data.captions import Captions
from pixelgen.data.decoding import Decoder, Unusable, label_of
from pixelgen.data.tars import Sample
from shard_files import picture


def decode(files, **options):
    return Decoder(8, **options)(Sample("a.tar", "key", files))


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"cls": b" 2\n"}, 2),
        ({"cls": b"cat"}, 1),
        ({"json": b'{"label": 2}'}, 2),
        ({"json": b'{"cls": "dog"}'}, 0),
        ({"json": b'{"label": 0, "cls": 2}'}, 0),
        ({"cls": b"1", "json": b'{"label": 2}'}, 1),
        ({"cls": b"1", "json": b'{"label": 2, "class_name": "bird"}'}, 2),
        ({"cls": b"1", "json": b"{"}, 1),
        ({"cls": b"\xef\xbb\xbfcat"}, 1),
    ],
)
def test_labels_are_numbers_or_names(files, label):
    assert label_of(files, 3, ["dog", "cat", "bird"]) == label
    assert decode({"png": picture(1), **files}, num_classes=3, class_names=["dog", "cat", "bird"])["label"] == label


@pytest.mark.parametrize(
    ("files", "detail"),
    [
        ({"cls": b"1"}, "'1' may be the number of a class or the name of another: pack the folder again"),
        ({"cls": b"0"}, "'0' may be the number"),  # no name, but of the same writer
        ({"cls": b"1", "json": b'{"class_name": "cow"}'}, "'cow' is not among the names"),
    ],
)
def test_a_number_is_never_taken_for_the_name_of_another_class(files, detail):
    with pytest.raises(Unusable, match=detail):
        label_of(files, 3, ["1", "10", "2"])


def test_a_number_beside_numbers_for_names():
    assert label_of({"json": b'{"label": 1}'}, 3, ["1", "10", "2"]) == 1  # a number in json is no name
    assert label_of({"cls": b"1", "json": b'{"class_name": "2"}'}, 3, ["1", "10", "2"]) == 2
    assert label_of({"cls": b"1"}, 3) == 1
    assert label_of({"cls": b"1"}, 3, ["00", "01", "02"]) == 1


@pytest.mark.parametrize("content", ["5", "null", '"label"', '["label"]', '{"label": null}', "{}", "{", "[" * 10**5])
def test_json_without_a_label_is_counted(content):
    with pytest.raises(Unusable) as verdict:
        label_of({"json": content.encode()}, 3)
    assert verdict.value.reason == "no label"


@pytest.mark.parametrize("content", [b"3", b"-1", b"cow", b"1.0", b"\xff"])
def test_labels_that_do_not_exist_are_counted(content):
    with pytest.raises(Unusable) as verdict:
        label_of({"cls": content}, 3, ["dog", "cat", "bird"])
    assert verdict.value.reason == "wrong label"


@pytest.mark.parametrize(
    ("files", "options", "reason"),
    [
        ({"txt": b"a"}, {}, "no image"),
        ({"png": picture(1)[:60]}, {}, "corrupt image"),
        ({"png": picture(1)}, {"min_side": 17}, "small image"),
        ({"png": picture(1), "json": b'{"caption": 3}'}, {"captions": Captions()}, "no caption"),
        ({"png": picture(1), "npy": b"?"}, {"text_states": True}, "no text states"),
    ],
)
def test_what_is_unusable_has_a_reason(files, options, reason):
    with pytest.raises(Unusable) as verdict:
        decode(files, **options)
    assert verdict.value.reason == reason


def test_random_choices_depend_on_seed_pass_and_key():
    def captions(seed=0, epoch=0):
        decoder = Decoder(8, seed, captions=Captions(prefix_probability=0.5))
        return [decoder(Sample("x/a.tar", str(i), {"png": picture(i), "txt": b"cat"}, epoch)) for i in range(40)]

    texts = [[item["caption"] for item in captions(*of)] for of in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert texts[0] != texts[3]
    assert torch.equal(captions()[3]["image"], torch.full((3, 8, 8), 3, dtype=torch.uint8))
