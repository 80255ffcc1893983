"""Texts from elsewhere are safe to show, and stay readable."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.reports.texts import encodable, plain, shortened


@given(st.text())
def test_a_plain_text_is_one_line_without_controls_or_surrogates(text: str) -> None:
    shown = plain(text)

    kinds = {unicodedata.category(sign) for sign in shown}
    assert not kinds & {"Cc", "Zl", "Zp", "Cs"}
    assert len(shown.splitlines()) <= 1
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 你好 👩‍🚀 [red]", "Grüße, 你好 👩‍🚀 [red]"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[2J\x07\x9b\x7f", "\\x1b[2J\\x07\\x9b\\x7f"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_long_text_is_cut_with_a_mark() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        (None, "▁█ 5 µs … é"),
        ("utf-8", "▁█ 5 µs … é"),
        ("ascii", "_# 5 us ... \\xe9"),
        ("latin-1", "_# 5 us ... é"),
        ("no such encoding", "_# 5 us ... \\xe9"),
    ],
)
def test_signs_fit_the_encoding(encoding: str | None, shown: str) -> None:
    assert encodable("▁█ 5 µs … é", encoding) == shown


@given(st.text(), st.sampled_from(["ascii", "latin-1", "cp1252", "cp437"]))
def test_what_is_encodable_can_be_encoded(text: str, encoding: str) -> None:
    encodable(plain(text), encoding).encode(encoding)
