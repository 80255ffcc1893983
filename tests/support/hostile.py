"""Texts that try to break out of wherever they are put, and results all of whose texts are such."""

from __future__ import annotations

from typing import Any, Final

HOSTILE: Final[tuple[str, ...]] = (
    "</script><script>window.__owned = 1; alert(1)</script>",
    "<img src=x onerror='window.__owned = 2'><svg onload=window.__owned=3></svg>",
    "\"' onmouseover=window.__owned=4 onfocus=window.__owned=4 autofocus x='",
    "javascript:window.__owned=5//",
    "</title></style></textarea></noscript><iframe src='javascript:parent.__owned=6'></iframe>",
    "{{ 7*7 }}{% include '/etc/passwd' %}${7*7}#{7*7}<%= 7*7 %>",
    "<!--><base href='http://example.invalid/'><link rel=stylesheet href='http://example.invalid/x'>",
    "]]><meta http-equiv=refresh content='0;url=http://example.invalid/'>",
    "\u202eright to left\u2066\u200f\u061c",
    "\x00\x07\x1b[31m\x1b]0;owned\x07\x7f\x9b2J",
    "&lt;script&gt;&#x3c;script>&amp;quot;",
    "a" * 600,
    "\u4e16\u754c" * 200,
    "\U0001f600\u0301\ufeff\ufffe",
    "\\u003c/script\\u003e\u2028\u2029\\",
    "url(http://example.invalid/y);background:red}*{display:none}",
)

_BREAKOUT: Final = (
    "\"'><img src=x onerror=window.__owned=7></title></style></script>"
    "<script>window.__owned=8</script><b onclick=window.__owned=9>"
    "\"' onmouseover=window.__owned=10 "
)
"""Leaves an attribute, an element or a script, whichever it is in."""
_KEYS_FREE: Final = ("options", "settings", "parts", "all_parts")
"""Objects whose keys are names that come from elsewhere."""
_WORDS: Final = (
    *("schema", "command", "verdict", "executor", "order", "scope", "kind"),
    *("limited_by", "upper_verdict"),
)
"""Keys whose values are words of the schema: with others a result is refused."""


class Poison:
    """Replaces or surrounds each text of a result by the hostile ones, in turn."""

    def __init__(self, *, alone: bool) -> None:
        self._alone, self._turn = alone, 0

    def text(self, value: str) -> str:
        """`value` between the next of them, or that alone."""
        self._turn += 1
        hostile = _BREAKOUT + HOSTILE[self._turn % len(HOSTILE)]
        return hostile if self._alone else f"{hostile}{value}{hostile}"

    def all_of(self, value: Any, key: str = "") -> Any:
        """The same with every text hostile, and every key that is no word of the schema."""
        if key in ("schema", "histograms") or (key in _WORDS and isinstance(value, str)):
            return value
        if isinstance(value, dict):
            free = key in _KEYS_FREE
            return {(_key(k) if free else k): self.all_of(each, k) for k, each in value.items()}
        if isinstance(value, list):
            return [self.all_of(each, key) for each in value]
        return self.text(value) if isinstance(value, str) else value


def _key(name: str) -> str:
    """The same for the same name, since results speak of a part in several places."""
    return _BREAKOUT + HOSTILE[sum(name.encode()) % len(HOSTILE)] + name
