"""Which caption is chosen how often, and the published recipe for short ones."""

import json
from collections import Counter
from random import Random

import pytest

from pixelgen.data.captions import PREFIXES, Captions

LONG = " ".join(["word"] * 30)


def drawn(captions, files, n=2000):
    random = Random(0)
    return Counter(captions(files, random) for _ in range(n))


def test_half_of_the_captions_under_30_words_get_a_prefix():
    counts = drawn(Captions(), {"txt": b" a red cup\n"})
    assert counts["a red cup"] / 2000 == pytest.approx(0.5, abs=0.04)
    assert set(counts) == {"a red cup"} | {prefix + "a red cup" for prefix in PREFIXES}
    assert min(counts[prefix + "a red cup"] for prefix in PREFIXES) > 2000 / 2 / len(PREFIXES) * 0.7


def test_captions_of_30_words_stay():
    assert drawn(Captions(), {"txt": LONG.encode()}) == {LONG: 2000}
    assert len(drawn(Captions(), {"txt": LONG.removesuffix(" word").encode()})) == 1 + len(PREFIXES)


def test_prefixes_can_be_off_or_always_on():
    assert drawn(Captions(prefix_probability=0), {"txt": b"a cup"}) == {"a cup": 2000}
    assert "a cup" not in drawn(Captions(prefix_probability=1), {"txt": b"a cup"})


def test_captions_are_chosen_by_weight_among_those_there_are():
    captions = Captions({"txt": 1, "long": 3, "none": 5, "off": 0}, prefix_probability=0)
    files = {"txt": b"short", "json": json.dumps({"long": "longer", "off": "never", "other": "never"}).encode()}
    counts = drawn(captions, files)
    assert set(counts) == {"short", "longer"}
    assert counts["longer"] / 2000 == pytest.approx(0.75, abs=0.04)
    assert drawn(captions, {"txt": b"short"}) == {"short": 2000}


def test_a_list_of_texts_is_one_caption():
    files = {"json": json.dumps({"alt": ["a", "b", "", 3], "caption": "c"}).encode()}
    counts = drawn(Captions({"alt": 1, "caption": 1}, 0), files)
    assert set(counts) == {"a", "b", "c"}
    assert counts["c"] == pytest.approx(1000, abs=80)
    assert counts["a"] == pytest.approx(500, abs=70)


def test_without_weights_it_is_the_text_file_and_then_the_field_caption():
    json_file = json.dumps({"caption": "from json"}).encode()
    assert drawn(Captions(prefix_probability=0), {"txt": b"from txt", "json": json_file}) == {"from txt": 2000}
    assert drawn(Captions(prefix_probability=0), {"json": json_file}) == {"from json": 2000}


def test_the_same_generator_gives_the_same_caption():
    files = {"json": json.dumps({"a": ["x", "y", "z"], "b": "w"}).encode()}
    captions = Captions({"a": 1, "b": 1})
    assert [captions(files, Random(i)) for i in range(50)] == [captions(files, Random(i)) for i in range(50)]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"txt": b" \n"},
        {"json": b"{}"},
        {"json": b"[1]"},
        {"json": b"{"},
        {"json": b"[" * 10**5},
        {"txt": b"\xff\xfe\xff"},
    ],
)
def test_no_caption_is_an_error(files):
    with pytest.raises(ValueError):  # noqa: PT011, the message is that of the reader of the file
        Captions()(files, Random(0))


def test_halves_of_surrogate_pairs_are_left_out():
    """Tokenizers refuse them, which would end the run."""
    files = {"json": rb'{"caption": ["a \ud83dcat \ud83d\ude00", "\udc00"]}'}
    assert drawn(Captions(prefix_probability=0), files) == {"a cat \U0001f600": 2000}


@pytest.mark.parametrize("wrong", [{"weights": {}}, {"weights": {"txt": -1}}, {"weights": {"txt": 0}}])
def test_impossible_weights_are_refused(wrong):
    with pytest.raises(ValueError, match=r"aptions\.weights (are|is)"):
        Captions(**wrong)
    with pytest.raises(ValueError, match="prefix_probability is 2: give a number of at least 0 and at most 1"):
        Captions(prefix_probability=2)


@pytest.mark.parametrize("files", [{"txt": b" " * (1 << 24) + b"a"}, {"json": b'{"caption": "a"}' + b" " * (1 << 24)}])
def test_files_longer_than_any_caption_are_refused_unread(files):
    with pytest.raises(ValueError, match="it has more than 16777216 bytes"):
        Captions()(files, Random(0))
