"""Classes and prompts as users write them."""

import pytest

from pixelgen.classes import changed_names, imagenet_names, numbers_of
from pixelgen.conditioner import Labels, Text, Unconditional

NAMES = ["red circle", "blue circle", "tench"]
TWELVE = sorted(map(str, range(1, 13)))  # as folders: 1, 10, 11, 12, 2, …


def labels(names):
    conditioner = Labels(len(names))
    conditioner.take_names(names)
    return conditioner


def test_numbers_ranges_and_names_in_their_order():
    words = ["2", 1, "0-2", "Blue Circle", "3", "blue_circle", "number:2"]
    assert labels(NAMES).from_words(words, None) == [2, 1, 0, 1, 2, 1, 3, 1, 2]
    assert labels(NAMES).from_words(None, None) == [0, 1, 2]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("4", r"there is no class 4: classes are 0 to 2 \(3: none\)"),
        ("2-1", r"there is no class 2-1: classes are 0 to 2 \(3: none\)"),
        ("0-999999999", r"there is no class 0-999999999: classes are"),
        ("bleu circle", r"there is no class 'bleu circle': did you mean 'blue circle'\?"),
        ("zzz", r"there is no class 'zzz': one is 'red circle'"),
        ("-1", r"there is no class '-1': one is 'red circle'"),
        (-1, r"there is no class -1: classes are 0 to 2"),
        ("number:tench", r"there is no class tench: classes are 0 to 2"),
    ],
)
def test_a_word_that_is_no_class_is_named(word, sentence):
    with pytest.raises(ValueError, match=sentence):
        labels(NAMES).from_words([word], None)


@pytest.mark.parametrize(
    ("word", "numbers"),
    [
        (10, [10]),
        ("number:10", [10]),
        ("0", [0]),  # no name
        ("3-4", [3, 4]),
    ],
)
def test_classes_with_numbers_for_names(word, numbers):
    assert [*numbers_of(word, 12, TWELVE)] == numbers


def test_a_number_that_is_the_name_of_another_class_is_refused_with_both_readings():
    with pytest.raises(ValueError, match=r"^'10' may be number:10 \('8'\) or number:1 \('10'\): give one of them$"):
        numbers_of("10", 12, TWELVE)
    with pytest.raises(ValueError, match=r"^'12' may be number:12 \('no class'\) or number:3 \('12'\)"):
        numbers_of("12", 12, TWELVE)
    ages = ["0-2", "10-19", "3-9"]
    assert [*numbers_of("10-19", 3, ages)] == [1]  # there are no such numbers
    with pytest.raises(ValueError, match=r"^'0-2' may be number:0-2 .* or number:0 \('0-2'\)"):
        numbers_of("0-2", 3, ages)
    digits = [f"{i:02d}" for i in range(10)]
    assert [numbers_of(word, 10, digits)[0] for word in ("7", "07", 7)] == [7, 7, 7]


def test_names_that_differ_in_case_alone():
    assert numbers_of("cat", 3, ["Cat", "cat", "dog"]) == [1]
    with pytest.raises(ValueError, match=r"'CAT' may be number:0 \('Cat'\) or number:1 \('cat'\)"):
        numbers_of("CAT", 3, ["Cat", "cat", "dog"])
    composed, decomposed = "K\u00e4fer", "Ka\u0308fer"  # as macOS writes file names
    assert numbers_of(composed, 1, [decomposed]) == [0]


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("golden retriever", 207),
        ("Golden_Retriever", 207),
        ("n02099601", 207),
        ("goldfish", 1),
        ("Carassius auratus", 1),
    ],
)
def test_imagenet_by_the_words_of_wordnet(word, number):
    assert numbers_of(word, 1000, imagenet_names()) == [number]
    assert numbers_of(word, 2, [imagenet_names()[number], "n00000000"]) == [0]  # a few folders of it


def test_a_word_of_two_imagenet_classes_is_refused_with_both():
    with pytest.raises(ValueError, match=r"number:134 \('n02012849', crane: .*\) or number:517 \('n03126707', crane: "):
        numbers_of("crane", 1000, imagenet_names())
    with pytest.raises(ValueError, match="did you mean 'golden retriever'"):
        numbers_of("golden retreiver", 1000, imagenet_names())


def test_numbers_need_no_names():
    assert Labels(3).from_words(["0"], None) == [0]
    with pytest.raises(ValueError, match="the classes have no known names: give numbers, 0 to 2, instead of 'tench'"):
        Labels(3).from_words(["tench"], None)
    with pytest.raises(
        ValueError, match="this network has neither classes nor text: leave out --classes and --prompts"
    ):
        Unconditional().from_words(["0"], None)


def test_from_python_words_are_read_alike():
    assert labels(NAMES).parse(["tench", 0, "1"], 3).tolist() == [2, 0, 1]
    assert labels(NAMES).parse("tench", 2).tolist() == [2, 2]
    assert labels(TWELVE).parse([10], 1).tolist() == [10]
    with pytest.raises(ValueError, match="'10' may be number:10"):
        labels(TWELVE).parse(["10"], 1)
    for given in (0.9, [0.5], [True]):
        with pytest.raises(ValueError, match="conditions are class numbers, 0 to 2, not"):
            Labels(3).parse(given, 1)


def test_what_changed_is_said():
    assert changed_names(NAMES, [*NAMES]) == changed_names(None, NAMES) == changed_names(NAMES, None) == ""
    said = changed_names(["ant", "bee", "cat"], ["bee", "cat", "zebra"])
    assert said == "class 0 was 'ant' and is 'bee'; gone: 'ant'; new: 'zebra'"
    assert changed_names(NAMES, [*NAMES, *"abcde"]) == "new: 'a', 'b', 'c' and 2 more"
    with pytest.warns(UserWarning, match="from here on, classes have other names: class 0 was 'red circle'"):
        labels(NAMES).take_names(["blue circle", "red circle", "tench"])


def test_prompts_from_the_command_line_or_a_file(tmp_path):
    assert Text(None).from_words(None, ["a cat, a dog", "a bird"]) == ["a cat, a dog", "a bird"]
    assert Text(None).from_words(None, ["x" * 5000]) == ["x" * 5000]
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  ein Käfer \n", encoding="utf-8")
    assert Text(None).from_words(None, [str(file)]) == ["a cat", "ein Käfer"]


def test_files_without_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none.txt cannot be read as text \(.*\): give a file with one prompt a line"):
        Text(None).from_words(None, [str(tmp_path / "none.txt")])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty.txt has no prompts: write one a line"):
        Text(None).from_words(None, [str(tmp_path / "empty.txt")])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match="cannot be read as text"):
        Text(None).from_words(None, [str(tmp_path / "bytes")])
