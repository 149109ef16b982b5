"""Text as other systems write it, and as it may be shown: on a terminal, in messages, in a config that is handed on."""

import codecs
import logging
import re
import sys
import traceback
import unicodedata
import warnings
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.table import Table

_URL = re.compile(r"\w+://(?:(?!::)\S)+")
_SECRET = re.compile(
    r"signature|token|secret|passw|credential|auth(?!or)|access[-_]?key|api[-_]?key|^(sig|key|pwd|policy|hmac)$"
)


def decode(content: bytes) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one, its line ends as on Unix; else a ValueError."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if utf16 else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: str | Path) -> str:
    """The text of a file, as `decode` reads it; a ValueError names the file and the line that is not UTF-8."""
    content = Path(path).read_bytes()
    try:
        return decode(content)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}, is not UTF-8 text: save the file as UTF-8") from error


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file without the white space around them; other separators inside of a line are kept."""
    return [line.strip() for line in read_text(path).split("\n")]


def without_credentials(text: str) -> str:
    """A text without the `user:password@` of the URLs in it, and without the signatures and tokens in their queries."""
    return _URL.sub(lambda url: _query(re.sub(r"(?<=://)[^/\s]*@", "", url[0])), text) if "://" in text else text


def _query(url: str) -> str:
    """A URL without the fields of its query that let others in."""
    address, mark, query = url.partition("?")
    kept = "&".join(field for field in query.split("&") if not _SECRET.search(field.partition("=")[0].lower()))
    return address + mark * bool(kept) + kept


def plain(text: object) -> str:
    """A text that is safe to show: without credentials, and with control characters spelled out."""
    shown = without_credentials(str(text))
    return shown if shown.isprintable() else "".join(map(_spelled, shown))


def _spelled(character: str) -> str:
    harmless = character in "\n\t\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return character if harmless else character.encode("unicode_escape").decode()


def say(*lines: object) -> None:
    """Print lines, and tables, as they stand: nothing in them is markup, and no line controls the terminal."""
    console = Console(markup=False, emoji=False, highlight=False)
    for line in lines:
        console.print(line if isinstance(line, Table) else plain(line), soft_wrap=not isinstance(line, Table))


def guard_terminal() -> None:
    """Let warnings, Lightning's messages and tracebacks reach the terminal as `plain` text, warnings in one line."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {plain(message)}\n"
    sys.excepthook = _show_error
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_clean)


def _show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(plain("".join(traceback.format_exception(kind, error, trace))))


def _clean(record: logging.LogRecord) -> bool:
    record.msg, record.args = plain(record.getMessage()), ()
    return True
