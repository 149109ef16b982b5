"""Classes and prompts as users write them."""

import pytest

from pixelgen.conditioner import Labels, Text, Unconditional

NAMES = ["red circle", "blue circle", "tench"]


def test_numbers_ranges_and_names_in_their_order():
    assert Labels(3).from_words(["2", 1, "0-2", "Blue Circle", "3"], None, lambda: NAMES) == [2, 1, 0, 1, 2, 1, 3]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("4", r"there is no class 4: classes are 0 to 2 \(3: none\)"),
        ("2-1", r"there is no class 2-1: classes are 0 to 2 \(3: none\)"),
        ("bleu circle", r"there is no class 'bleu circle': did you mean 'blue circle'\?"),
        ("zzz", r"there is no class 'zzz': one is 'red circle'"),
        ("-1", r"there is no class '-1': one is 'red circle'"),
    ],
)
def test_a_word_that_is_no_class_is_named(word, sentence):
    with pytest.raises(ValueError, match=sentence):
        Labels(3).from_words([word], None, lambda: NAMES)


def test_names_are_asked_for_only_when_needed_and_may_be_unknown():
    def unknown():
        raise ValueError("nobody knows")

    assert Labels(3).from_words(["0"], None, unknown) == [0]
    with pytest.raises(ValueError, match="nobody knows: give numbers, 0 to 2, instead of 'tench'"):
        Labels(3).from_words(["tench"], None, unknown)
    with pytest.raises(
        ValueError, match="this network has neither classes nor text: leave out --classes and --prompts"
    ):
        Unconditional().from_words(["0"], None, unknown)


def test_prompts_from_the_command_line_or_a_file(tmp_path):
    assert Text(None).from_words(None, ["a cat, a dog", "a bird"], list) == ["a cat, a dog", "a bird"]
    assert Text(None).from_words(None, ["x" * 5000], list) == ["x" * 5000]
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  ein Käfer \n", encoding="utf-8")
    assert Text(None).from_words(None, [str(file)], list) == ["a cat", "ein Käfer"]


def test_files_without_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none.txt cannot be read as text \(.*\): give a file with one prompt a line"):
        Text(None).from_words(None, [str(tmp_path / "none.txt")], list)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty.txt has no prompts: write one a line"):
        Text(None).from_words(None, [str(tmp_path / "empty.txt")], list)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match="bytes, line 1, is not UTF-8 text"):
        Text(None).from_words(None, [str(tmp_path / "bytes")], list)
