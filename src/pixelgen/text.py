"""Text that others wrote, made harmless: shown on a terminal, stored without credentials, expanded within bounds."""

import logging
import re
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Mapping
from math import prod
from types import TracebackType
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table

MOST_SHARDS = 1_000_000  # that a pattern may stand for
_URL = re.compile(r"\b\w+://\S+")
_SECRET = re.compile(
    r"signature|token|secret|passw|credential|auth(?!or)|access[-_]?key|api[-_]?key|^(sig|key|pwd|policy|hmac)$"
)


def without_credentials(text: str) -> str:
    """A text without the `user:password@` of the URLs in it, and without the signatures and tokens in their queries."""
    return _URL.sub(lambda urls: "::".join(map(_without_secrets, urls[0].split("::"))), text) if "://" in text else text


def public(config: Any) -> Any:
    """The values of a config without the credentials of their URLs; the config itself is left as it is."""
    if isinstance(config, Namespace):
        return Namespace(**public(vars(config)))
    if isinstance(config, Mapping):
        return {key: public(value) for key, value in config.items()}
    if isinstance(config, list):
        return [public(value) for value in config]
    return without_credentials(config) if isinstance(config, str) else config


def _without_secrets(quoted: str) -> str:
    url = quoted.rstrip("'\")>")
    address, mark, query = re.sub(r"(?<=://)[^/\s]*@", "", url).partition("?")
    kept = "&".join(field for field in query.split("&") if not _SECRET.search(field.partition("=")[0].lower()))
    return address + mark * bool(kept) + kept + quoted[len(url) :]


def expand_pattern(pattern: str) -> list[str]:
    """The paths and URLs that a pattern of shards stands for, before `*`, `?` and `[…]` are looked up."""
    for part in pattern.split("::"):
        ranges = [abs(int(last) - int(first)) + 1 for first, last in re.findall(r"\{(\d+)\.\.(\d+)", part)]
        choices = [group.count(",") + 1 for group in re.findall(r"\{([^{}]*)\}", part)]
        if prod(ranges + choices) > MOST_SHARDS:
            raise ValueError(f"the shards {part!r} are more than {MOST_SHARDS:_}: give fewer, or their folder")
    try:
        from webdataset.shardlists import expand_urls

        return [*expand_urls(pattern)]
    except (AssertionError, ValueError) as error:
        raise ValueError(f"the shards {pattern!r}: {error}") from error


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
