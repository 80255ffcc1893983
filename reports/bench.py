"""What people are told of a benchmark: lines of a trial, and the table of an experiment.

Pure: result objects in, words and figures out; nothing is formatted for a terminal here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from msgspec import Struct

from .intervals import Median, median_of
from .scaling import NoFit, UslFit, fit_usl, knee
from .texts import aligned
from .units import duration, rate

SHOWN_PARTS: Final = 3


class Row(Struct, frozen=True):
    """One value of what was swept, over its repeats."""

    value: str
    trials: int
    verdict: str
    throughput: Median
    response_p50: float | None
    response_p99: float | None


class Figures(Struct, frozen=True):
    """What an experiment comes to."""

    rows: list[Row]
    notes: list[str]
    """What follows from them, as sentences."""
    usl: UslFit | None = None
    knee: float | None = None
    price: dict[str, float] | None = None
    """Order -> its throughput, where that of the cheapest one is 1; of the valid ones."""


def bench_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a benchmark says beside what every run says: label and text."""
    load, lines = result["load"], []
    if load["open"]:
        asked = "" if load["rate"] is None else f" {rate(load['rate'])}"
        lines.append(
            (
                "load",
                f"{load['arrivals']}{asked}: {rate(load['offered'])} offered, "
                f"{rate(result['throughput'])} done after the warm-up",
            )
        )
    else:
        lines.append(("load", f"as fast as it can: {rate(result['throughput'])}"))
    lines.append(("steady", _steady(result["steady"])))
    if result["tail"] is not None:
        lines.append(("slowest 1 %", _tail(result["tail"])))
    for each in result.get("recovery", ()):
        lines.append(("recovery", _recovery(each)))
    return lines


def invariant_lines(invariants: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """One line when all hold; else one for each that does not, and one for the rest."""
    broken = [each for each in invariants if not each["held"]]
    kept = [each for each in invariants if each["held"]]
    lines = [("invariant", f"{each['name']}: BROKEN ({each['detail']})") for each in broken]
    if len(kept) == 1:
        lines.append(("invariant", f"{kept[0]['name']}: held ({kept[0]['detail']})"))
    elif kept:
        whole = f"{len(kept)}" if broken else f"all {len(kept)}"
        names = ", ".join(each["name"] for each in kept)
        lines.append(("invariants", f"{whole} held: {names}"))
    return lines


def _steady(steady: Mapping[str, Any]) -> str:
    if steady["backlog_slope"] is None:
        return f"can't be told: {steady['why']}"
    return "yes" if steady["steady"] else f"NO: {steady['why']}"


def _tail(tail: Mapping[str, Any]) -> str:
    parts = sorted(tail["parts"].items(), key=lambda part: -part[1])[:SHOWN_PARTS]
    whole = max(1, tail["response_ns"])
    told = ", ".join(f"{name} {ns / whole:.0%}" for name, ns in parts if ns / whole > 0.005)
    return f"{duration(tail['response_ns'])} on average: {told}"


def _recovery(recovery: Mapping[str, Any]) -> str:
    after = recovery["recovered_ns"]
    how = "not before the load ended" if after is None else f"after {duration(after)}"
    return f"from {recovery['fault']} at {duration(recovery['at_ns'])}: {how}"


# --- experiments


def figures_of(experiment: Mapping[str, Any]) -> Figures:
    """What the facts of an experiment come to."""
    values = list(dict.fromkeys(fact["value"] for fact in experiment["facts"]))
    rows = [_row(value, experiment["facts"]) for value in values]
    parameter = experiment["parameter"]
    if experiment["kind"] == "search":
        return Figures(rows, [f"sustainable: {experiment['said']}"])
    if parameter in ("workers", "concurrency"):
        return _scaling(rows, parameter)
    if parameter == "rate":
        return _curve(rows)
    if parameter == "order":
        return _price(rows, experiment)
    return Figures(rows, [])


def _row(value: str, facts: Sequence[Mapping[str, Any]]) -> Row:
    own = [fact for fact in facts if fact["value"] == value]
    trusted = [fact for fact in own if fact["verdict"] != "invalid"] or own
    responses = [fact["response"] for fact in trusted if fact["response"] is not None]
    return Row(
        value=value,
        trials=len(own),
        verdict=_worst(own),
        throughput=median_of([fact["throughput"] for fact in trusted]),
        response_p50=median(each["p50"] for each in responses) if responses else None,
        response_p99=median(each["p99"] for each in responses) if responses else None,
    )


def _worst(facts: Sequence[Mapping[str, Any]]) -> str:
    verdicts = [fact["verdict"] for fact in facts]
    return next(each for each in ("invalid", "fail", "pass") if each in verdicts)


def _valid(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.verdict != "invalid"]


def _scaling(rows: list[Row], parameter: str) -> Figures:
    fit = fit_usl([(float(row.value), row.throughput.value) for row in _valid(rows)])
    if isinstance(fit, NoFit):
        return Figures(rows, [f"no law of scaling is given: {fit.why}"])
    peak = "no peak" if fit.peak is None else f"peak at {fit.peak:.1f} {parameter}"
    said = (
        f"Universal Scalability Law: λ {rate(fit.lam)}, σ {fit.sigma:.3g}, κ {fit.kappa:.2g} "
        f"(R² {fit.r_squared:.3f}): {peak}"
    )
    return Figures(rows, [said], usl=fit)


def _curve(rows: list[Row]) -> Figures:
    points = [
        (float(row.value), row.response_p99) for row in _valid(rows) if row.response_p99 is not None
    ]
    found = knee(points)
    if found.rate is None:
        return Figures(rows, [f"no knee is given: {found.why}"])
    return Figures(
        rows,
        [f"knee at {rate(found.rate)}: beyond it, latency grows faster than the rate"],
        knee=found.rate,
    )


def _price(rows: list[Row], experiment: Mapping[str, Any]) -> Figures:
    valid = _valid(rows)
    if not valid:
        return Figures(rows, ["no price of order is given: no trial was valid"])
    best = max(valid, key=lambda row: row.throughput.value)
    whole = best.throughput.value or 1.0
    price = {row.value: row.throughput.value / whole for row in valid}
    notes = [
        f"--order {row.value} has {price[row.value]:.0%} of the throughput of --order {best.value}"
        for row in valid
        if row is not best
    ]
    hottest = experiment["hottest_key"]
    if hottest is not None:
        share = hottest["events"] / hottest["of"]
        notes.append(
            f"the hottest key {hottest['key']!r} has {share:.2%} of all events: in order by key, "
            f"{1 / share:.4g} events at most can be handled side by side"
        )
    return Figures(rows, notes, price=price)


def fact_line(fact: Mapping[str, Any]) -> str:
    """One trial of an experiment, as it is over."""
    value = f"{fact['value']:>10}  " if fact["value"] else ""
    told = f"{value}{rate(fact['throughput']):>12}"
    if fact["response"] is not None:
        told += (
            f"  p50 {duration(fact['response']['p50'])}, p99 {duration(fact['response']['p99'])}"
        )
    why = f" ({fact['invalid'][0]})" if fact["invalid"] else ""
    steady = "" if fact["steady"] else ", not steady"
    return f"{told}  {fact['verdict']}{steady}{why}"


def experiment_rows(experiment: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table of an experiment, its head first."""
    head = (experiment["parameter"] or "trials", "throughput", "95 %", "p50 / p99", "verdict")
    return [head, *(_cells(row) for row in figures_of(experiment).rows)]


def experiment_lines(experiment: Mapping[str, Any]) -> list[str]:
    """The table of an experiment, and what it comes to."""
    lines: list[str] = []
    if experiment["kind"] != "search":
        lines += aligned(experiment_rows(experiment))
    return [*lines, *figures_of(experiment).notes]


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    interval = row.throughput.interval
    between = "-" if interval is None else f"{rate(interval.low)} to {rate(interval.high)}"
    latency = "-"
    if row.response_p50 is not None and row.response_p99 is not None:
        latency = f"{duration(int(row.response_p50))} / {duration(int(row.response_p99))}"
    value = row.value or str(row.trials)
    return value, rate(row.throughput.value), between, latency, row.verdict


def run_line(path: str, result: Mapping[str, Any]) -> str:
    """A result that was kept, in a line."""
    response = result["response"]
    latency = "" if response is None else f", p99 {duration(response['p99'])}"
    return (
        f"{result['started_at'][:19]}  {result['name']}: {result['verdict']}, "
        f"{rate(result['throughput'])}{latency}  {path}"
    )
