"""Exports of histograms: the hdrhistogram package reads them back, and writes the same."""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.iterators import PercentileIterator
from hdrh.log import HistogramLogReader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millstream.engine.histogram import HIGHEST, Histogram
from millstream.engine.histogram_codec import decoded, encoded, zigzag_leb128
from millstream.reports.hdr import (
    IntervalHistogram,
    hgrm,
    hlog,
    hlog_head,
    hlog_line,
    percentile_spectrum,
)

# The package takes a tenth of a second for a percentile text.
few = settings(max_examples=20)

STARTED_S = 1_700_000_000.25

_values = st.one_of(
    st.integers(0, 5000),
    st.builds(
        lambda bits, by: min(HIGHEST, max(0, (1 << bits) + by)),
        st.integers(0, 42),
        st.integers(-2, 2),
    ),
    st.integers(0, HIGHEST),
)
_lists = st.lists(_values, max_size=200)


class JavaPercentiles(PercentileIterator):  # type: ignore[misc]  # the package has no types
    """Steps as the reference implementation has them; the package's own ones shrink."""

    def increment_iteration_level(self) -> None:
        level = self.percentile_to_iterate_to
        if level == 100:
            return
        halves = int(math.log(100.0 / (100.0 - level)) / math.log(2)) + 1
        self.percentile_to_iterate_to += 100.0 / (
            self.percentile_ticks_per_half_distance * 2**halves
        )


class Oracle(HdrHistogram):  # type: ignore[misc]  # the package has no types
    def get_percentile_iterator(self, ticks_per_half_distance: int) -> JavaPercentiles:
        return JavaPercentiles(self, ticks_per_half_distance)


def oracle(values: Sequence[int]) -> Oracle:
    histogram = Oracle(1, HIGHEST, 3)
    for value in values:
        assert histogram.record_value(value)
    return histogram


def recorded(values: Sequence[int]) -> Histogram:
    histogram = Histogram()
    histogram.record(values)
    return histogram


def read_log(path: Path, text: str) -> list[HdrHistogram]:
    path.write_text(text, encoding="utf-8")
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST, 3))
    found = []
    with reader.input_file:
        while (histogram := reader.get_next_interval_histogram()) is not None:
            found.append(histogram)
    return found


def figures(histogram: HdrHistogram) -> tuple[int, int, int, list[int], list[int]]:
    """All that a histogram holds."""
    counts = np.frombuffer(histogram.counts, dtype=np.int64)
    places = np.flatnonzero(counts)
    return (
        histogram.get_total_count(),
        histogram.get_min_value(),
        histogram.get_max_value(),
        places.tolist(),
        counts[places].tolist(),
    )


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def footer(text: str) -> dict[str, float]:
    """The figures of the last three lines by their names."""
    found = {}
    for line in text.splitlines()[-3:]:
        for part in line.strip("#[]").split(","):
            name, _, figure = part.partition("=")
            found[name.strip()] = float(figure)
    return found


@few
@given(_lists, st.sampled_from([1, 2, 5, 8]))
def test_percentile_text_is_what_hdrhistogram_writes(values: list[int], ticks: int) -> None:
    written = io.BytesIO()
    hdr = oracle(values)
    hdr.output_percentile_distribution(written, 1e6, ticks)
    text = hgrm(recorded(values), ticks_per_half_distance=ticks)

    assert rows(text) == rows(written.getvalue().decode())


@few
@given(_lists)
def test_the_footer_has_the_figures_of_hdrhistogram(values: list[int]) -> None:
    hdr = oracle(values)
    told = footer(hgrm(recorded(values), unit_ratio=1.0))

    # The text has three decimals, floats of large values fewer.
    assert told == {
        "Mean": pytest.approx(hdr.get_mean_value(), rel=1e-12, abs=0.0005),
        "StdDeviation": pytest.approx(hdr.get_stddev(), rel=1e-9, abs=0.0005),
        "Max": hdr.get_max_value(),
        "Total count": len(values),
        "Buckets": hdr.bucket_count,
        "SubBuckets": hdr.sub_bucket_count,
    }


def test_percentile_text_by_hand() -> None:
    # The example of the AssemblyScript and JavaScript ports' tests: 25, 50 and 75, in ns.
    assert hgrm(recorded([25, 50, 75]), unit_ratio=1.0) == (
        "       Value     Percentile TotalCount 1/(1-Percentile)\n"
        "\n"
        "      25.000 0.000000000000          1           1.00\n"
        "      25.000 0.100000000000          1           1.11\n"
        "      25.000 0.200000000000          1           1.25\n"
        "      25.000 0.300000000000          1           1.43\n"
        "      50.000 0.400000000000          2           1.67\n"
        "      50.000 0.500000000000          2           2.00\n"
        "      50.000 0.550000000000          2           2.22\n"
        "      50.000 0.600000000000          2           2.50\n"
        "      50.000 0.650000000000          2           2.86\n"
        "      75.000 0.700000000000          3           3.33\n"
        "      75.000 1.000000000000          3\n"
        "#[Mean    =       50.000, StdDeviation   =       20.412]\n"
        "#[Max     =       75.000, Total count    =            3]\n"
        "#[Buckets =           32, SubBuckets     =         2048]\n"
    )


def test_values_stand_in_milliseconds() -> None:
    text = hgrm(recorded([1_500_000] * 10))

    assert rows(text)[-1].split() == ["1.500", "1.000000000000", "10"]
    assert footer(text)["Max"] == 1.5


@given(_lists.filter(bool))
@example([0])
def test_steps_of_a_spectrum_hold_what_they_say(values: list[int]) -> None:
    histogram = recorded(values)
    steps = percentile_spectrum(histogram)

    for step in steps:
        assert step.count == sum(value <= step.value for value in values)
        assert step.count >= step.percentile / 100 * len(values) * (1 - 1e-12)
        assert step.inverse == pytest.approx(
            1 / (1 - step.percentile / 100) if step.percentile < 100 else math.inf
        )
    assert [step.percentile for step in steps] == sorted({step.percentile for step in steps})
    assert (steps[0].percentile, steps[-1].percentile) == (0, 100)
    assert steps[-1].count == len(values)


def test_a_spectrum_of_very_many_values_ends() -> None:
    histogram = recorded([1, 1000])
    for _ in range(60):
        histogram.merge(histogram)
    histogram.record([2000])  # one of so many is nothing to a float
    steps = percentile_spectrum(histogram)

    assert [step.count for step in steps[-2:]] == [2**61 + 1] * 2
    assert steps[-1].value == 2000
    assert steps[-2].percentile == 100  # as a float


def test_an_empty_histogram_has_no_steps() -> None:
    assert percentile_spectrum(recorded([])) == []
    assert len(rows(hgrm(recorded([])))) == 2
    assert footer(hgrm(recorded([])))["Total count"] == 0


@given(_lists.filter(bool))
@example([0])
@example([1])
@example([HIGHEST])
@example([0, 2, 3, 6])
def test_payloads_are_those_of_hdrhistogram_byte_by_byte(values: list[int]) -> None:
    ours = base64.b64decode(encoded(recorded(values)))
    theirs = base64.b64decode(oracle(values).encode())

    cookie, length = struct.unpack(">II", ours[:8])
    assert (ours[:4], length) == (theirs[:4], len(ours) - 8)
    assert cookie == 0x1C849314
    # Packed alike, unless zlib itself is another.
    assert zlib.decompress(ours[8:]) == zlib.decompress(theirs[8:])


@given(_lists)
def test_what_hdrhistogram_decodes_is_what_was_recorded(values: list[int]) -> None:
    read_back = HdrHistogram.decode(encoded(recorded(values)))

    assert figures(read_back) == figures(oracle(values))
    percents = [0, 1, 50, 90, 99, 99.9, 100]
    assert read_back.get_percentile_to_value_dict(percents) == oracle(
        values
    ).get_percentile_to_value_dict(percents)


@given(_lists)
def test_an_encoded_histogram_is_read_back(values: list[int]) -> None:
    text = encoded(recorded(values))

    again = decoded(text)

    assert again.counts() == recorded(values).counts()
    assert encoded(again) == text


@few
@given(_lists)
def test_what_hdrhistogram_encodes_is_read(values: list[int]) -> None:
    text = oracle(values).encode().decode()

    assert decoded(text).counts() == recorded(values).counts()


@given(st.text(max_size=60), st.lists(st.integers(0, 5000), max_size=20), st.integers(0, 80))
def test_a_text_that_is_no_histogram_is_refused(text: str, values: list[int], length: int) -> None:
    whole = encoded(recorded(values))

    for wrong in (text, whole[:length] if length < len(whole) else whole + "AAAA", whole[::-1]):
        with pytest.raises(ValueError):
            decoded(wrong)


def test_a_text_that_unpacks_to_more_than_a_histogram_is_refused() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    text = base64.b64encode(struct.pack(">II", 0x1C849314, len(bomb)) + bomb).decode()

    with pytest.raises(ValueError):
        decoded(text)


@pytest.mark.parametrize("doublings", [*range(5, 16), 31, 32, 40, 54, 55, 56, 61])
def test_large_counts_are_read_back(doublings: int) -> None:
    histogram = recorded([7])
    for _ in range(doublings):
        histogram.merge(histogram)

    assert HdrHistogram.decode(encoded(histogram)).get_count_at_value(7) == 2**doublings


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (0, "00"),
        (-1, "01"),
        (1, "02"),
        (63, "7e"),
        (-64, "7f"),
        (64, "8001"),
        (-65, "8101"),
        (8191, "fe7f"),
        (8192, "808001"),
        (2**55 - 1, "feffffffffffff7f"),
        (2**55, "808080808080808001"),
        (2**63 - 1, "feffffffffffffffff"),
        (-(2**63), "ffffffffffffffffff"),
    ],
)
def test_words_by_hand(number: int, word: str) -> None:
    assert zigzag_leb128(number).hex() == word


@given(st.lists(_lists, min_size=1, max_size=5))
def test_hdrhistogram_reads_a_log_back(
    tmp_path_factory: pytest.TempPathFactory, series: list[list[int]]
) -> None:
    intervals = [
        IntervalHistogram(number * 0.5, 0.5, recorded(values), tag)
        for number, values in enumerate(series)
        for tag in (None, "stage-1")
    ]
    path = tmp_path_factory.mktemp("log") / "run.hlog"
    found = read_log(path, hlog(intervals, STARTED_S, "a run\n[StartTime: 5 is no start]"))

    assert [each.get_tag() for each in found] == [None, "stage-1"] * len(series)
    for number, values in enumerate(series):
        for each in found[2 * number : 2 * number + 2]:
            start_ms = (STARTED_S + number * 0.5) * 1000
            assert figures(each) == figures(oracle(values))
            assert each.get_start_time_stamp() == pytest.approx(start_ms, abs=0.5)
            assert each.get_end_time_stamp() == pytest.approx(start_ms + 500, abs=0.5)


def test_intervals_of_a_log_add_up_to_the_run(tmp_path: Path) -> None:
    draws = np.random.default_rng(1).integers(0, HIGHEST, (4, 500))
    parts = [recorded(draw) for draw in draws]
    intervals = [IntervalHistogram(float(i), 1.0, part) for i, part in enumerate(parts)]
    path = tmp_path / "run.hlog"
    path.write_text(hlog(intervals, STARTED_S))
    reader, total = HistogramLogReader(str(path), None), HdrHistogram(1, HIGHEST, 3)
    with reader.input_file:
        while reader.add_next_interval_histogram(total):
            pass

    assert figures(total) == figures(oracle(draws.ravel().tolist()))


def test_a_log_by_hand() -> None:
    interval = IntervalHistogram(1.5, 1.0, recorded([2_000_000]), "A")
    lines = hlog([interval], STARTED_S, "by hand").splitlines()

    assert lines[:5] == [
        "# by hand",
        "#[Histogram log format version 1.2]",
        "#[StartTime: 1700000000.250 (seconds since epoch), 2023-11-14T22:13:20.250+00:00]",
        "#[BaseTime: 1700000000.250 (seconds since epoch)]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    assert lines[5].startswith("Tag=A,1.500,1.000,2.001,HISTFAAAA")
    assert lines == [*hlog_head(STARTED_S, "by hand"), hlog_line(interval)]


@pytest.mark.parametrize("tag", ["", "a,b", "a b", "a\n", "\ta"])
def test_tags_that_would_break_a_line_are_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="leave out commas and white space"):
        hlog_line(IntervalHistogram(0.0, 1.0, recorded([1]), tag))


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (1, -1), (math.nan, 1), (1, math.inf)])
def test_times_that_are_none_are_refused(start: float, length: float) -> None:
    with pytest.raises(ValueError, match="times of 0 or more"):
        hlog_line(IntervalHistogram(start, length, recorded([1])))


@pytest.mark.parametrize("started", [-1.0, math.nan, math.inf, 1e18])
def test_a_log_starts_at_some_time(started: float) -> None:
    with pytest.raises(ValueError, match="seconds since the epoch"):
        hlog_head(started)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_unit_ratio_is_above_0(ratio: float) -> None:
    with pytest.raises(ValueError, match="give it one above 0"):
        hgrm(recorded([1]), ratio)
    with pytest.raises(ValueError, match="give it one above 0"):
        hlog_line(IntervalHistogram(0.0, 1.0, recorded([1])), ratio)


def test_there_is_a_tick_per_half_distance() -> None:
    with pytest.raises(ValueError, match="give it 1 or more"):
        percentile_spectrum(recorded([1]), 0)
