"""How throughput follows the number of workers, and latency the rate: the law, and the knee.

Pure: points in, figures out, or the reason in words why there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

LEAST_POINTS: Final = 4
"""Three parameters go through any three points; only a fourth one can disagree."""

LEAST_R_SQUARED: Final = 0.9
"""What the law has to explain of the throughputs' variance; less is a poor fit."""

LEAST_CHANGE: Final = 0.05
"""Throughputs that differ by less, largest from smallest, show nothing that the law could explain:
σ and κ would be those of the noise."""

_MOST_CHANGE: Final = 1e9
MOST_N: Final = 1_000_000
LEAST_RATES: Final = 3

_ALLOWED: Final = (
    ((1, 0, 0),),
    ((1, 1, 0),),
    ((1, 0, 0), (0, 1, 0)),
    ((1, 0, 0), (0, 0, 1)),
    ((1, 1, 0), (0, 0, 1)),
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
)
"""Directions in (1/λ, σ/λ, κ/λ): corners where σ is 0 or 1 and κ is 0, then the edges κ = 0, σ = 0
and σ = 1, then all of it."""

_ROUNDING: Final = 1e-20
"""Squares that are less, as a share, are no reason for another parameter: κ is 0, not 1e-18."""

_MOST_STEPS: Final = 200

Floats = npt.NDArray[np.float64]


class UslFit(Struct, frozen=True):
    """The Universal Scalability Law through some points.

    X(N) = λN / (1 + σ(N − 1) + κN(N − 1)): N. J. Gunther, "Guerrilla Capacity Planning", Springer
    2007, chapters 4 to 6. λ is fitted too, so that no single run at N = 1 decides all.
    """

    lam: float
    """λ: the throughput of one, in the unit of the points."""
    sigma: float
    """σ, contention: the share of the work that is done one at a time; 0 to 1."""
    kappa: float
    """κ, coherency: what each one costs each other one; 0 or more."""
    r_squared: float
    """1 − (squared residuals) / (squared deviations from the mean)."""
    smallest: float
    largest: float
    """The N between which was measured; beyond them it is a prediction."""

    def throughput(self, n: float) -> float:
        """X(n), for an n of 1 or more."""
        return self.lam * n / (1 + self.sigma * (n - 1) + self.kappa * n * (n - 1))

    @property
    def peak(self) -> float | None:
        """N* = sqrt((1 − σ) / κ), beyond which more make it slower; None: there is no such N.

        1 or less means that one alone is fastest.
        """
        return sqrt((1 - self.sigma) / self.kappa) if self.kappa > 0 else None


class NoFit(Struct, frozen=True):
    """Nothing can be said of scaling, and why."""

    why: str


class Knee(Struct, frozen=True):
    """Where a rate–latency curve has its knee; a rate of None: nowhere, and `why` says so."""

    rate: float | None
    why: str
    between: tuple[float, float] | None = None
    """The measured rates beside it: of one curve with one knee, it lies between them."""


def fit_usl(points: Sequence[tuple[float, float]]) -> UslFit | NoFit:
    """The law through (N, throughput) points, by least squares with λ > 0, 0 ≤ σ ≤ 1, κ ≥ 0.

    Give each run as a point of its own: several of one N weigh as several. There is no fit for
    fewer than LEAST_POINTS different N, for throughputs that hardly differ (LEAST_CHANGE), and for
    a poor fit (LEAST_R_SQUARED).

    N / X(N) is linear in 1/λ, σ/λ and κ/λ, and so are the bounds. Each side, edge and inside of
    what they allow is looked at for its own minimum, and the least one is taken: no bound stops
    the search half-way.
    """
    refusal = _refusal(points)
    if refusal:
        return NoFit(refusal)
    n, x = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    unit = float(x.max())
    x /= unit
    a, b, c = _least_squares(n, x)
    deviations = x - x.mean()
    unexplained = _squares(a + b * (n - 1) + c * n * (n - 1), n, x)
    r_squared = 1 - unexplained / float(deviations @ deviations)
    if r_squared < LEAST_R_SQUARED:
        return NoFit(
            f"the law fits poorly: it explains {max(r_squared, 0):.0%} of the variance of the "
            f"throughputs, and {LEAST_R_SQUARED:.0%} are asked for; measure longer, or more often"
        )
    return UslFit(unit / a, b / a, c / a, r_squared, float(n.min()), float(n.max()))


def _refusal(points: Sequence[tuple[float, float]]) -> str:
    """Why points can't be fitted at all; empty when they can."""
    if not points:
        return "nothing was measured"
    for n, x in points:
        if not 1 <= n <= MOST_N:
            return f"a point is of N = {n:g}; give it 1 to {MOST_N:,}"
        if not (x > 0 and isfinite(x)):
            return f"the throughput at N = {n:g} is {x:g}; give it one above 0"
    distinct = len({n for n, _ in points})
    if distinct < LEAST_POINTS:
        return (
            f"there are points of {distinct} different N; the law has three parameters, so give "
            f"it {LEAST_POINTS} or more"
        )
    lowest, highest = min(x for _, x in points), max(x for _, x in points)
    if highest <= lowest * (1 + LEAST_CHANGE):
        return (
            f"throughput changes by {highest / lowest - 1:.1%} over all N, and {LEAST_CHANGE:.0%} "
            "are asked for: there is no scaling to be fitted"
        )
    if highest > lowest * _MOST_CHANGE:
        return f"throughputs from {lowest:g} to {highest:g} are not of one thing"
    return ""


def _least_squares(n: Floats, x: Floats) -> tuple[float, float, float]:
    """(1/λ, σ/λ, κ/λ) with the least squared residuals of X(N) = N / (a + b(N−1) + cN(N−1))."""
    terms = np.column_stack((np.ones_like(n), n - 1, n * (n - 1)))
    best, least = (1.0, 0.0, 0.0), float("inf")
    for allowed in _ALLOWED:
        face = np.array(allowed, dtype=np.float64).T
        q = _minimum(terms @ face, n, x)
        a, b, c = (face @ q).tolist()
        if a > 0 and 0 <= b <= a and c >= 0:
            squares = _squares(terms @ face @ q, n, x)
            if squares < least - _ROUNDING * float(x @ x):
                best, least = (a, b, c), squares
    return best


def _minimum(terms: Floats, n: Floats, x: Floats) -> Floats:
    """q with the least squared residuals of x = n / (terms @ q), without any bounds.

    Levenberg–Marquardt (D. W. Marquardt, J. SIAM 11, 1963), from where the linear problem
    n / x = terms @ q has its minimum, weighted so that to first order it is the same.
    """
    scale = np.abs(terms).max(axis=0)
    terms = terms / scale
    weights = x * x / n
    q = np.linalg.lstsq(terms * weights[:, None], weights * n / x, rcond=None)[0]
    if not (terms @ q > 0).all():  # the curve would have a pole among the points
        q = np.zeros(terms.shape[1])
        q[0] = np.median(n / x / terms[:, 0])
    damping, squares = 1e-3, _squares(terms @ q, n, x)
    for _ in range(_MOST_STEPS):
        below = terms @ q
        slopes = terms * (n / below**2)[:, None]
        gauss = slopes.T @ slopes
        step = np.linalg.lstsq(
            gauss + damping * np.diag(np.diag(gauss)), slopes.T @ (n / below - x), rcond=None
        )[0]
        tried = _squares(terms @ (q + step), n, x)
        if tried < squares:
            is_done = squares - tried <= 1e-15 * squares
            q, squares, damping = q + step, tried, damping / 10
            if is_done:
                break
        else:
            damping *= 10
            if damping > 1e12:
                break
    found: Floats = q / scale
    return found


def _squares(below: Floats, n: Floats, x: Floats) -> float:
    """The squared residuals of x = n / below; infinite where that is no throughput."""
    if not (below > 0).all():
        return float("inf")
    residuals = x - n / below
    return float(residuals @ residuals)


def knee(points: Sequence[tuple[float, float]]) -> Knee:
    """The knee of a rate–latency curve: the measured rate with the most power, rate / latency.

    L. Kleinrock, "Power and deterministic rules of thumb for probabilistic problems in computer
    communications", ICC 1979: up to there a higher rate is worth the latency that it costs, beyond
    it latency grows by more percent than the rate. In an M/M/1 queue that is at half the capacity,
    in M/G/1 where one job is in the system on average. Points that bend (Kneedle; V. Satopää et
    al., ICDCSW 2011) were not taken: on a curve that has a pole they move with the highest rate
    that happened to be measured. Between points that are joined by lines power has no maximum of
    its own, so that the knee is always one that was measured.

    Several latencies of one rate count as their median. There is no knee for fewer than three
    different rates, or where power is largest at the lowest or the highest of them.
    """
    by_rate: dict[float, list[float]] = {}
    for rate, latency in points:
        if not (rate > 0 and isfinite(rate)):
            return Knee(None, f"a point is of a rate of {rate:g}; give it one above 0")
        if not (latency > 0 and isfinite(latency)):
            return Knee(None, f"the latency at a rate of {rate:g} is {latency:g}; give it above 0")
        by_rate.setdefault(rate, []).append(latency)
    rates = sorted(by_rate)
    if len(rates) < LEAST_RATES:
        return Knee(
            None, f"latencies are known of {len(rates)} different rates; give it {LEAST_RATES}"
        )
    powers = [rate / median(by_rate[rate]) for rate in rates]
    at = powers.index(max(powers))
    if at == 0:
        return Knee(None, f"latency grows faster than the rate from {rates[0]:g} on: it lies below")
    if at == len(rates) - 1:
        return Knee(None, f"latency grows slower than the rate up to {rates[-1]:g}: it lies beyond")
    return Knee(
        rates[at],
        "beyond it latency grows faster than the rate",
        (rates[at - 1], rates[at + 1]),
    )
