"""Elements of HTML and SVG as safe text: whatever is no Markup yet is escaped.

Pure. No string reaches a page but through here or through the template, which escapes as well.
"""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from ..texts import plain


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; `stroke_width=2` is its attribute stroke-width, `class_` its class.

    Attributes that are None are left out; floats are given to a tenth.
    """
    told = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inside = "".join(escape(shown(child)) for child in children)
    start = f"<{name}{''.join(told)}"
    return Markup(f"{start}/>" if not children else f"{start}>{inside}</{name}>")


def joined(parts: Iterable[Markup]) -> Markup:
    """Elements one after another."""
    return Markup("").join(parts)


def _attribute(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else shown(value)


def shown(value: object) -> object:
    """A text without signs that turn or hide what stands beside them."""
    return plain(value) if type(value) is str else value
