"""A YAML is read with bounds, and told with file and line where something is wrong; the parser's reports in words."""

import pytest
from jsonargparse import ArgumentParser

from pixelgen.config import build, one_sentence, parse_yaml, read_yaml
from pixelgen.models import Denoiser

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, r"c.yaml cannot be read: its aliases stand for a huge number of values"),
        ("a: &a [*a]", r"c.yaml cannot be read: its aliases stand for"),
        (
            "trainer: {a: 1}\nmodel: {}\ntrainer: {b: 2}",
            r"c.yaml, line 3, column 1: the key 'trainer' .* line 1",
        ),
        ("a:\n  b: 1\n  c: 2\n  b: 3", r"c.yaml, line 4, column 3: the key 'b' stands here again, first in line 2"),
        ("model:\n  a: 1\n b: 2", r"c.yaml, line 3, column 2: did not find expected key"),
        ("a: 1\n\tb: 2", r"c.yaml, line 2, column 1: .* \(indent by spaces, not by tabs\)"),
        ("a: \x01", r"c.yaml, line 1: the character '\\x01' is not allowed"),
        ("a: " + "[" * 5000, r"c.yaml, line 1, column \d+: .*nesting"),
        ("a: !!python/object/apply:os.system [ls]", r"c.yaml, line 1, column 4: could not determine a constructor"),
        ("a: " + "9" * 5000, r"c.yaml cannot be read: Exceeds the limit"),
        ("- a", "c.yaml holds no config"),
        ("", "c.yaml holds no config"),
    ],
)
def test_what_is_wrong_with_a_config_is_said_with_file_and_line(tmp_path, text, problem):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=problem) as refused:
        read_yaml(tmp_path / "c.yaml")
    assert "\n" not in str(refused.value)


def test_aliases_merges_and_other_systems_configs_are_read(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfa: &a {b: 1.0e-3}\r\nc: {<<: *a, d: on}\r\ne: [*a, *a]\r\n")
    one = {"b": 0.001}
    assert read_yaml(tmp_path / "c.yaml") == {"a": one, "c": {**one, "d": True}, "e": [one, one]}
    (tmp_path / "c.yaml").write_bytes("a: ä".encode("latin-1"))
    with pytest.raises(ValueError, match=r"c\.yaml, line 1, is not UTF-8 text"):
        read_yaml(tmp_path / "c.yaml")


def test_the_parser_reads_its_configs_and_values_the_same_way(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--a", type=dict)
    (tmp_path / "c.yaml").write_text("a: {b: 1}\na: {b: 2}")
    for arguments in (["--config", str(tmp_path / "c.yaml")], ["--a", "{b: 1, b: 2}"], ["--config", BOMB]):
        with pytest.raises(Exception, match=r"stands here again, first in line 1|aliases stand for|Expected a <class"):
            parser.parse_args(arguments)
    assert parse_yaml("[1, x, null]") == [1, "x", None]


def report_of(*arguments):
    """What `one_sentence` makes of bad arguments of a small parser with a nested class."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--model", type=Denoiser | None, default={"class_path": "pixelgen.models.JiT"})
    parser.add_argument("--trainer.max_steps", type=int | bool | None)
    with pytest.raises(Exception) as refused:  # noqa: PT011, whatever the parser raises
        parser.parse_args(arguments)
    return one_sentence(refused.value, [flag for action in parser._actions for flag in action.option_strings])


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--model.dept", "3", "model has no option 'dept': did you mean depth?"),
        ("--modl.depth", "3", "there is no option --modl.depth: did you mean --model.depth?"),
        ("--trainer.max_step", "3", "there is no option --trainer.max_step: did you mean --trainer.max_steps?"),
        ("--trainr.max_steps", "3", "there is no option --trainr.max_steps: did you mean --trainer.max_steps?"),
        ("--model.depth", "fast", "model.depth: expected int, got fast"),
        ("--trainer.max_steps", "fast", "trainer.max_steps: expected int or bool, got fast"),
        ("--model", "JT", "model: there is no class 'JT'"),
        ("--model", "Heun", "model: Heun is of another kind than what belongs there: name another class"),
    ],
)
def test_a_report_of_the_parser_names_option_value_and_the_nearest_name(flag, value, sentence):
    assert report_of(flag, value).startswith(sentence)


def test_only_a_command_with_configs_points_to_one():
    error = ValueError("the following arguments are required: reference")
    assert one_sentence(error, ["--reference"]) == "--reference must be given"
    assert one_sentence(error, ["--config"]).endswith("as in --config configs/demo.yaml")


def test_building_keeps_the_sentence():
    with pytest.raises(ValueError, match=r"^model has no option 'dept': did you mean depth\?$"):
        build(Denoiser, {"class_path": "pixelgen.models.JiT", "init_args": {"dept": 2}}, "model")
