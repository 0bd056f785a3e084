"""How well one measure tells two predictors apart: answer by answer (AUROC), and as a mean over 50 scenarios (power).

    AUROC   P(s > s') + P(s = s') / 2 for the score s of an answer (or pair) of the faithful predictor and s' of the other, both
            turned so that more is more faithful: 0.5 is a coin, 1.0 never fails. The interval draws scenarios, each with all
            answers of both.
    power   the share of draws of POWER_SCENARIOS scenarios, with replacement, in which the measure finds the faithful predictor
            better: t = (m - m') / SE >= 2.01 (Student, 49 degrees of freedom, two-sided 5 %), m = t(sum of parts / sum of wholes)
            as the measure is turned, and the cluster-robust, linearised standard error of paired answers
            SE^2 = C / (C - 1) * sum over drawn scenarios c of (e_c - e'_c)^2,  e_c = t'(m) * (parts_c - value * wholes_c) / wholes

An AUROC of a measure that is yes or no for each answer cannot reach 1.0 where a liar is right by chance, so the power is what tells
whether a table of means can be trusted; the AUROC tells whether a single answer can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.bootstrap import LEVEL, RESAMPLES
from nsdrive.world.types import FloatArray

POWER_SCENARIOS = 50
POWER_DRAWS = 400  # chosen by us: a share is then known to 5 %
SIGNIFICANT = 2.0096  # Student's t with 49 degrees of freedom, two-sided 5 %
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
    order = np.argsort(b, kind="stable")
    below, upto = np.searchsorted(b[order], a, side="left"), np.searchsorted(b[order], a, side="right")
    drawn = _draws(faithful.n_scenarios, faithful.n_scenarios, RESAMPLES, seed)
    weights = np.concatenate([np.ones((1, faithful.n_scenarios)), drawn])
    mine, theirs = weights[:, faithful.scenario], weights[:, other.scenario[order]]
    before = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(theirs, axis=1)], axis=1)
    wins = (mine * (before[:, below] + before[:, upto])).sum(axis=1) / 2.0
    pairs = mine.sum(axis=1) * before[:, -1]
    shares = np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    known = shares[1:][np.isfinite(shares[1:])]
    tails = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
    low, high = np.quantile(known, tails) if len(known) and faithful.n_scenarios > 1 else (np.nan, np.nan)
    return Auroc(value=float(shares[0]), low=float(low), high=float(high))


def power(faithful: Column, other: Column, better: str, seed: int) -> float:
    """The share of draws in which the faithful predictor is significantly better, nan with fewer than FEWEST scenarios."""
    if min(len(np.unique(faithful.scenario)), len(np.unique(other.scenario))) < FEWEST:
        return float("nan")
    n = faithful.n_scenarios
    drawn = _draws(n, POWER_SCENARIOS, POWER_DRAWS, seed)
    sides = [_linear(column, better, drawn) for column in (faithful, other)]
    difference = sides[0].mean - sides[1].mean
    spread = sides[0].errors - sides[1].errors
    c = POWER_SCENARIOS
    error = np.sqrt(c / (c - 1.0) * (drawn * spread**2).sum(axis=1))
    found = np.isfinite(difference) & (difference > SIGNIFICANT * error + 1e-12)
    return float(found.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """Of each draw: the turned measure (D,), and what each scenario adds to its error (D, S)."""

    mean: FloatArray
    errors: FloatArray


def _linear(column: Column, better: str, drawn: FloatArray) -> _Side:
    parts = np.bincount(column.scenario, weights=column.parts, minlength=column.n_scenarios)
    wholes = np.bincount(column.scenario, weights=column.wholes, minlength=column.n_scenarios)
    whole = (drawn @ wholes)[:, None]
    value = np.divide((drawn @ parts)[:, None], whole, out=np.full(whole.shape, np.nan), where=whole != 0.0)
    errors = np.divide(parts - value * wholes, whole, out=np.zeros((len(drawn), len(parts))), where=whole != 0.0)
    if better == "lower":
        errors = -errors
    elif better == "one":
        errors = errors * np.sign(1.0 - value)
    return _Side(mean=turned(value[:, 0], better), errors=errors)


def _draws(n: int, size: int, times: int, seed: int) -> FloatArray:
    """(times, n): how often each of n scenarios is among `size` drawn with replacement."""
    rng = np.random.default_rng([seed, n, size])
    return rng.multinomial(size, np.full(n, 1.0 / n), size=times).astype(float)
