"""Addresses of servers, and what nobody else should see of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def without_credentials(text: str) -> str:
    """An address without its user and password; other texts as they are."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    # Up to the last @, whatever stands there: passwords with a / or a ? in them are common.
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def shown_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line that others may see: addresses in it without credentials."""
    return [without_credentials(each) for each in arguments]
