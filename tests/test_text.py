"""Text as other systems write it is read as meant; what is shown controls no terminal and gives away no password."""

import logging
import warnings

import pytest
from rich.table import Table

from pixelgen.files import decode, read_lines, read_text
from pixelgen.text import guard_terminal, plain, say, without_credentials

ESC = "\x1b]0;OWNED\x07\x1b[2J"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_of_byte_order_and_ends_of_lines_are_no_text(tmp_path, encoding, end):
    (tmp_path / "prompts.txt").write_bytes(f"a red ü{end}  two\u2028parts\x0cthree{end}".encode(encoding))
    assert read_lines(tmp_path / "prompts.txt") == ["a red ü", "two\u2028parts\x0cthree", ""]


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\ntwo ä\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt, line 2, is not UTF-8 text: save the file as UTF-8"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(UnicodeDecodeError):
        decode(b"\xe4")


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("http://alice:S3@host/{00..01}.tar", "http://host/{00..01}.tar"),
        ("http://alice:p@ss@host/a::http://b:S3@h/b", "http://host/a::http://h/b"),
        ("s3://b/a.tar?X-Amz-Date=1&X-Amz-Signature=S3&X-Amz-Credential=S3", "s3://b/a.tar?X-Amz-Date=1"),
        ("https://h/a?sig=S3", "https://h/a"),
        ("https://h/a?x=1&access_token=S3 and https://u:S3@h/b", "https://h/a?x=1 and https://h/b"),
        ("https://h/a?AWSAccessKeyId=S3&design=2&author=me", "https://h/a?design=2&author=me"),
        ("URL('https://u:S3@h/a?sig=S3') (https://h/b?token=S3)", "URL('https://h/a') (https://h/b)"),
        ("why? token=2, a@b", "why? token=2, a@b"),
        ("git@host:a/b.tar", "git@host:a/b.tar"),
    ],
)
def test_credentials_of_urls_are_left_out(text, public):
    assert without_credentials(text) == public == plain(text)


def test_control_characters_are_spelled_out():
    assert plain(f"a{ESC}\n\tb\x9b\u202e é 猫\u200d") == "a\\x1b]0;OWNED\\x07\\x1b[2J\n\tb\\x9b\\u202e é 猫\u200d"
    assert plain(b"\xff".decode(errors="surrogateescape")) == "\\udcff"  # of a file name, which could not be printed


def test_what_is_said_is_no_markup(capsys):
    table = Table("name")
    table.add_row("[red]x[/]")
    say("out[/]: [bold]x :smile:", f"{'long ' * 40}end{ESC}", table)
    shown = capsys.readouterr().out
    assert shown.startswith("out[/]: [bold]x :smile:\n" + "long " * 40 + "end\\x1b]0;OWNED")
    assert "[red]x[/]" in shown


def test_warnings_and_logs_are_a_line_each(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr("sys.excepthook", None)
    handler = logging.NullHandler()
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "handlers", [handler])
    guard_terminal()
    assert warnings.formatwarning(UserWarning(f"a{ESC} http://u:S3@h/x"), UserWarning, "f.py", 3) == (
        "warning: a\\x1b]0;OWNED\\x07\\x1b[2J http://h/x\n"
    )
    record = logging.LogRecord("x", 20, "f", 1, "run folder: %s", (f"out{ESC}",), None)
    assert handler.filter(record)
    assert record.getMessage() == "run folder: out\\x1b]0;OWNED\\x07\\x1b[2J"
