"""Texts from elsewhere (names, keys, errors, file names), safe for a terminal, short, in columns.

Pure. What is escaped can still be read, as Python writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: terminals take them as commands
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff"  # hidden, or turning
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"  # no characters at all
)
_NAMED: Final[Mapping[str, str]] = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_IN_ASCII: Final[dict[int, str]] = {
    **{ord(sign): instead for sign, instead in zip("▁▂▃▄▅▆▇█", "_.-=+*%#", strict=True)},
    **{ord(sign): instead for sign, instead in zip("²–−×‘’µ", "2--x''u", strict=True)},
    **{ord("…"): "...", ord("λ"): "lambda", ord("σ"): "sigma", ord("κ"): "kappa"},
}


def plain(text: str) -> str:
    """The text in one line, without anything that a terminal would obey or hide."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    sign = match[0]
    code = ord(sign)
    if sign in _NAMED:
        return _NAMED[sign]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shortened(text: str, most: int) -> str:
    """At most so many characters (1 or more) of a text, with a mark where it was cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def encodable(text: str, encoding: str | None) -> str:
    """The text with our own signs in ASCII, when `encoding` has no room for some of it; what is
    left that it has no room for is escaped. Without an encoding: as it is."""
    if encoding is None:
        return text
    try:
        text.encode(encoding)
    except LookupError:
        encoding = "ascii"
    except UnicodeEncodeError:
        pass
    else:
        return text
    return text.translate(_IN_ASCII).encode(encoding, "backslashreplace").decode(encoding)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of as many cells each as lines, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
