"""How well one measure tells two predictors apart: answer by answer (AUROC), and as a mean over 50 scenarios (power).

    AUROC   P(s > s') + P(s = s') / 2 for the score s of an answer (or pair) of the faithful predictor and s' of the other, both
            turned so that more is more faithful: 0.5 is a coin, 1.0 never fails. The interval draws scenarios, each with all
            answers of both.
    power   the share of draws of POWER_SCENARIOS scenarios, with replacement, in which the measure finds the faithful predictor
            better: t = (m - m') / SE >= 2.01 (Student, 49 degrees of freedom, two-sided 5 %), m = t(sum of parts / sum of wholes)
            as the measure is turned, and the cluster-robust, linearised standard error of paired answers
            SE^2 = C / (C - 1) * sum over drawn scenarios c of (e_c - e'_c)^2,  e_c = t'(m) * (parts_c - value * wholes_c) / wholes
            Against a liar in every scenario nearly everything has power; so also against one that lies in a quarter of them.

An AUROC of a measure that is yes or no for each answer cannot reach 1.0 where a liar is right by chance, so the power is what tells
whether a table of means can be trusted; the AUROC tells whether a single answer can. See docs/measures.md, "Validation on planted
truth".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eval.bootstrap import LEVEL, RESAMPLES
from nsdrive.world.types import FloatArray

POWER_SCENARIOS = 50
POWER_DRAWS = 400  # chosen by us: a share is then known to 5 %
SIGNIFICANT = 2.0096  # Student's t with 49 degrees of freedom, two-sided 5 %
MOST = 400  # chosen by us: more scenarios are drawn in so many bundles; the interval is the same but for noise of a few percent
FEWEST = 10  # chosen by us: with fewer scenarios nothing is said of power


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One measure on one predictor, N rows to which it applies: parts and wholes (N,), wholes not 0; scenario (N,) indices into
    n_scenarios that all predictors share."""

    parts: FloatArray
    wholes: FloatArray
    scenario: np.ndarray
    n_scenarios: int

    @property
    def value(self) -> float:
        """The measure itself, nan without rows."""
        return float(self.parts.sum() / self.wholes.sum()) if len(self.parts) else float("nan")

    def turned(self, better: str) -> FloatArray:
        """(N,) the rows' scores, more is more faithful. Rounded, so that equal ones are equal."""
        return np.round(turned(self.parts / self.wholes, better), 9)


@dataclass(frozen=True, kw_only=True)
class Auroc:
    """value with its interval; nan where one predictor has no rows."""

    value: float
    low: float
    high: float


def turned(values: FloatArray, better: str) -> FloatArray:
    """Higher is more faithful. better: "higher", "lower", or "one" (best at 1)."""
    if better == "one":
        return np.asarray(1.0 - np.abs(1.0 - values))
    return np.asarray(-values if better == "lower" else values)


def auroc(faithful: Column, other: Column, better: str, seed: int) -> Auroc:
    a, b = faithful.turned(better), other.turned(better)
    if not len(a) or not len(b):
        return Auroc(value=float("nan"), low=float("nan"), high=float("nan"))
    levels, at = np.unique(np.concatenate([a, b]), return_inverse=True)
    bundle, n = _bundles(faithful.n_scenarios, seed)
    mine = _histograms(bundle[faithful.scenario], at[: len(a)], n, len(levels))
    theirs = _histograms(bundle[other.scenario], at[len(a) :], n, len(levels))
    won = mine @ (np.cumsum(theirs, axis=1) - 0.5 * theirs).T  # (S, S): pairs won by one scenario against another
    weights = np.concatenate([np.ones((1, n)), _draws(n, n, RESAMPLES, seed)])
    wins = ((weights @ won) * weights).sum(axis=1)
    pairs = (weights @ mine.sum(axis=1)) * (weights @ theirs.sum(axis=1))
    shares = np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    known = shares[1:][np.isfinite(shares[1:])]
    tails = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
    low, high = np.quantile(known, tails) if len(known) and faithful.n_scenarios > 1 else (np.nan, np.nan)
    return Auroc(value=float(shares[0]), low=float(low), high=float(high))


def power(faithful: Column, other: Column, better: str, seed: int, share: float = 1.0) -> float:
    """The share of draws in which the faithful predictor is significantly better than one that answers as it in all but this share
    of the scenarios, and there as the other. nan with fewer than FEWEST scenarios."""
    if min(len(np.unique(faithful.scenario)), len(np.unique(other.scenario))) < FEWEST:
        return float("nan")
    n = faithful.n_scenarios
    drawn = _draws(n, POWER_SCENARIOS, POWER_DRAWS, seed)
    swapped = np.random.default_rng([seed, n, 2]).binomial(drawn.astype(int), share).astype(float)
    parts, wholes = _sums(faithful)
    other_parts, other_wholes = _sums(other)
    mine = _value(drawn @ parts, drawn @ wholes)
    mixed_parts = (drawn - swapped) @ parts + swapped @ other_parts
    mixed_wholes = (drawn - swapped) @ wholes + swapped @ other_wholes
    mixed = _value(mixed_parts, mixed_wholes)
    own = _errors(parts, wholes, mine, drawn @ wholes, better)
    same = own - _errors(parts, wholes, mixed, mixed_wholes, better)
    different = own - _errors(other_parts, other_wholes, mixed, mixed_wholes, better)
    squares = ((drawn - swapped) * same**2 + swapped * different**2).sum(axis=1)
    error = np.sqrt(POWER_SCENARIOS / (POWER_SCENARIOS - 1.0) * squares)
    difference = turned(mine, better) - turned(mixed, better)
    return float((np.isfinite(difference) & (difference > SIGNIFICANT * error + 1e-12)).mean())


def _sums(column: Column) -> tuple[FloatArray, FloatArray]:
    """Parts and wholes of each scenario."""
    n = column.n_scenarios
    parts, wholes = (np.bincount(column.scenario, weights=w, minlength=n) for w in (column.parts, column.wholes))
    return np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)


def _value(parts: FloatArray, wholes: FloatArray) -> FloatArray:
    return np.divide(parts, wholes, out=np.full(wholes.shape, np.nan), where=wholes != 0.0)


def _errors(parts: FloatArray, wholes: FloatArray, value: FloatArray, whole: FloatArray, better: str) -> FloatArray:
    """(D, S): what a copy of each scenario adds to the error of each draw's measure, as it is turned."""
    column = np.nan_to_num(value)[:, None]
    errors = np.divide(
        parts - column * wholes, whole[:, None], out=np.zeros((len(value), len(parts))), where=whole[:, None] != 0.0
    )
    return np.asarray(-errors if better == "lower" else errors * np.sign(1.0 - column) if better == "one" else errors)


def _histograms(scenario: np.ndarray, at: np.ndarray, n: int, n_levels: int) -> FloatArray:
    """(S, L): how many rows of each scenario have each score."""
    flat = np.bincount(scenario * n_levels + at, minlength=n * n_levels)
    return flat.reshape(n, n_levels).astype(float)


def _bundles(n: int, seed: int) -> tuple[np.ndarray, int]:
    """The bundle of each scenario, and how many there are: itself, or one of MOST put together at random."""
    if n <= MOST:
        return np.arange(n), n
    return np.random.default_rng([seed, n, 3]).permutation(np.arange(n) % MOST), MOST


@lru_cache(maxsize=8)
def _draws(n: int, size: int, times: int, seed: int) -> FloatArray:
    """(times, n): how often each of n scenarios is among `size` drawn with replacement."""
    rng = np.random.default_rng([seed, n, size])
    return rng.multinomial(size, np.full(n, 1.0 / n), size=times).astype(float)
