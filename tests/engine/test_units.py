"""Durations, sizes and shares: what is understood, and what is refused in which words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.engine.units import SIZES, TIMES, parse_duration, parse_share, parse_size

US, MS, S = 10**3, 10**6, 10**9
TOO_MUCH = "9" * 400
"""More than a float holds."""

NEVER = [
    "",
    " ",
    "5%",
    "-1",
    "+1",
    "1e3",
    ".5",
    "5.",
    "_1",
    "0x1",
    "nan",
    "inf",
    "1,5",
    "1 2",
    "\u0665",
]
"""Neither a duration nor a size."""

numbers = st.text("0123456789_. ", max_size=8)
unit_names = st.sampled_from([*TIMES, *SIZES, "%", "", "m", "S", "\n"])


def written(count: int, digits: int) -> str:
    """`count` / 10**`digits`, with all its decimals."""
    return f"{count // 10**digits}.{count % 10**digits:0{digits}}" if digits else str(count)


# --- durations


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("7ns", 7),
        ("250us", 250 * US),
        ("250µs", 250 * US),
        ("500ms", 500 * MS),
        ("2s", 2 * S),
        ("1min", 60 * S),
        ("24h", 86_400 * S),
        ("1.5s", 1500 * MS),
        ("0.1s", 100 * MS),
        ("3", 3 * S),
        ("0.25", 250 * MS),
        ("0s", 0),
        ("0.4ns", 0),
        ("1_000ms", S),
        (" 2 s ", 2 * S),
    ],
)
def test_a_duration_is_understood_in_any_unit(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@given(st.integers(0, 10**15))
def test_a_duration_comes_back_to_the_nanosecond(count: int) -> None:
    decimals = {"ns": 0, "us": 3, "µs": 3, "ms": 6, "s": 9, " s": 9, "": 9}

    assert {parse_duration(written(count, places) + unit) for unit, places in decimals.items()} == {
        count
    }


@given(st.integers(0, 10**5), st.sampled_from([("min", 60 * S), ("h", 3600 * S)]))
def test_minutes_and_hours_come_back(count: int, unit: tuple[str, int]) -> None:
    name, nanoseconds = unit

    assert parse_duration(f"{count}{name}") == parse_duration(f"{count:_} {name}")
    assert parse_duration(f"{count}{name}") == count * nanoseconds


@pytest.mark.parametrize(
    "text", [*NEVER, "s", "5m", "1S", "1Min", "2d", "-1s", "1s2ms", "1B", TOO_MUCH, f"{TOO_MUCH}h"]
)
def test_what_is_not_a_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_duration(text)

    assert str(refused.value) == f"{text!r} is not a duration; write it like 500ms, 2s or 1min"


# --- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10B", 10),
        ("4KiB", 4096),
        ("512MiB", 512 * 2**20),
        ("2GiB", 2**31),
        ("1.5KiB", 1536),
        ("0.5GiB", 2**29),
        ("1024", 1024),
        ("0", 0),
        ("1_024 KiB", 2**20),
    ],
)
def test_a_size_is_understood_in_any_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(0, 2**40), st.sampled_from(["B", "KiB", "MiB", "GiB"]))
def test_a_size_comes_back_in_bytes(count: int, unit: str) -> None:
    power = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[unit]

    assert parse_size(f"{count}{unit}") == parse_size(f"{count:_} {unit}") == count << power


@pytest.mark.parametrize(
    "text", [*NEVER, "MiB", "512MB", "512mib", "5K", "1KIB", "5s", "-1B", TOO_MUCH, f"{TOO_MUCH}B"]
)
def test_what_is_not_a_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_size(text)

    assert str(refused.value) == f"{text!r} is not a size; write it like 512MiB or 2GiB"


# --- shares


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("5%", 0.05),
        ("0.05", 0.05),
        ("12.5 %", 0.125),
        ("0.1%", 0.001),
        (" 7% ", 0.07),
        ("100%", 1.0),
        ("1", 1.0),
    ],
)
def test_a_share_is_understood_with_and_without_percent(text: str, share: float) -> None:
    assert parse_share(text) == share


@given(st.integers(1, 100_000))
def test_a_share_comes_back_as_it_was_written(part: int) -> None:
    with_percent, plain = parse_share(f"{written(part, 3)}%"), parse_share(written(part, 5))

    assert with_percent == pytest.approx(part / 100_000, rel=1e-12)
    assert plain == part / 100_000


@pytest.mark.parametrize("text", ["", "%", "-5%", "5 s", "5%%", "5% of all", "half", "nan%"])
def test_what_is_no_share_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_share(text)

    assert str(refused.value) == f"{text!r} is no share; write it like 5%"


@pytest.mark.parametrize("text", ["0", "0%", "0.000%", "100.1%", "1.001", "5", TOO_MUCH])
def test_a_share_of_nothing_or_of_more_than_all_is_refused_with_its_bounds(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_share(text)

    assert str(refused.value) == f"{text!r} is no share; it is more than 0% and at most 100%"


# --- all of them


@given(st.builds(str.__add__, numbers, unit_names), st.sampled_from([parse_duration, parse_size]))
@example(TOO_MUCH, parse_duration)
def test_any_text_is_a_whole_number_or_is_refused_by_its_name(
    text: str, parse: Callable[[str], int]
) -> None:
    try:
        value = parse(text)
    except ValueError as error:
        assert str(error).startswith(repr(text))
    else:
        assert type(value) is int
        assert value >= 0
