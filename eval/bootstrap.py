"""Means with 95 % bootstrap intervals that resample scenarios, not samples.

Samples of one scenario share a map, the agents and the planner's mood: they are not independent, and an interval that
resamples samples is too narrow. The cluster bootstrap draws S scenarios with replacement out of S and takes every sample
of each; the interval is the 2.5 and 97.5 percentile of the means (Davison and Hinkley, Bootstrap Methods and their
Application, 1997, sections 3.8 and 5.3). With one scenario there is nothing to resample and no interval is given.

More than MAX_CLUSTERS scenarios are first put into that many bundles at random, and bundles are drawn: the variance of a sum
over independent scenarios is that of the sum over bundles, and time and memory stay bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nsdrive.world.types import FloatArray

RESAMPLES = 1000  # chosen by us: the percentile's own noise is then a few percent of the interval's width
LEVEL = 0.95
# Chosen by us: adds 1 / sqrt(2 * 1000), 2 %, to the 4 % by which a width is uncertain for its number of resamples.
MAX_CLUSTERS = 1000
NUMBERS = 400_000  # of draws in memory at once, as floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """Means of C columns: value, low, high are (C,), nan where unknown. resampled (RESAMPLES, C): the bootstrap's means."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    resampled: FloatArray

    def minus(self, other: Estimate) -> Estimate:
        """The paired difference: both must come from the same clusters and seed, so that their draws are the same."""
        resampled = self.resampled - other.resampled
        low, high = _percentiles(resampled)
        return Estimate(value=self.value - other.value, low=low, high=high, resampled=resampled)


def cluster_mean(values: FloatArray, counts: np.ndarray, clusters: np.ndarray, seed: int) -> Estimate:
    """Mean of each column over the rows that count, and its interval.

    values (N, C), nan where a row has no such value. counts (N,) bool: rows that count. clusters (N,): any sortable
    labels, of all rows (a scenario without a counting row can still be drawn: it then adds nothing).
    """
    finite = np.isfinite(values)
    if finite[counts].all():  # one whole for all columns
        return cluster_ratio(np.where(counts[:, None], values, 0.0), counts[:, None].astype(float), clusters, seed)
    here = counts[:, None] & finite
    return cluster_ratio(np.where(here, values, 0.0), here.astype(float), clusters, seed)


def cluster_ratio(parts: FloatArray, wholes: FloatArray, clusters: np.ndarray, seed: int) -> Estimate:
    """Sum of parts over sum of wholes, column by column, and its interval: precision, recall, shares of what applies.

    parts (N, C), wholes (N, C) or (N, 1): a row to which a measure does not apply has 0 in both. The draws are those of
    `cluster_mean`.
    """
    index, n = cells_of(clusters, seed)
    return ratio_of_sums(sums_by(index, parts, n), sums_by(index, wholes, n), seed)


def ratio_of_sums(above: FloatArray, below: FloatArray, seed: int) -> Estimate:
    """`cluster_ratio` from the sums of parts and wholes over each cluster or bundle, (S, C) and (S, C) or (S, 1)."""
    value = _divide(above.sum(axis=0), below.sum(axis=0))
    unknown = np.full((RESAMPLES, above.shape[1]), np.nan)
    resampled = _resample(above, below, seed) if len(above) > 1 else unknown
    low, high = _percentiles(resampled)
    return Estimate(value=value, low=low, high=high, resampled=resampled)


def cells_of(clusters: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """(N,) which cluster, in the order of their labels, or which of MAX_CLUSTERS bundles each row belongs to; and how many."""
    labels, index = np.unique(clusters, return_inverse=True)
    if len(labels) <= MAX_CLUSTERS:
        return index, len(labels)
    return _bundles(len(labels), seed)[index], MAX_CLUSTERS


def sums_by(index: np.ndarray, values: FloatArray, n: int) -> FloatArray:
    """(n, C): the sum of values (N, C) over the rows of each index."""
    return np.stack([np.bincount(index, weights=column, minlength=n) for column in values.T], axis=1)


@lru_cache(maxsize=4)
def _bundles(n: int, seed: int) -> np.ndarray:
    """(n,) the bundle of each cluster: equally many in each, put together at random."""
    return np.random.default_rng([seed, n, 1]).permutation(np.arange(n) % MAX_CLUSTERS)


@lru_cache(maxsize=32)  # at most 32 * 2 MB
def _draws(n: int, seed: int) -> np.ndarray:
    """(RESAMPLES, n): how often each of n clusters is drawn when n are drawn with replacement."""
    rng = np.random.default_rng([seed, n])
    drawn = np.zeros((RESAMPLES, n), dtype=np.uint8 if n < 256 else np.uint16)
    for row in drawn:
        row[:] = np.bincount(rng.integers(0, n, size=n), minlength=n)
    return drawn


def _resample(above: FloatArray, below: FloatArray, seed: int) -> FloatArray:
    drawn, sums = _draws(len(above), seed), np.concatenate([above, below], axis=1)
    means = []
    step = max(1, NUMBERS // len(above))
    for start in range(0, RESAMPLES, step):
        drawn_sums = drawn[start : start + step].astype(float) @ sums
        means.append(_divide(drawn_sums[:, : above.shape[1]], drawn_sums[:, above.shape[1] :]))
    return np.concatenate(means)


def rounded(value: float, digits: int = 6) -> float | None:
    """As results.json has it: None where it is not known."""
    return round(float(value), digits) + 0.0 if np.isfinite(value) else None


def _divide(sums: FloatArray, rows: FloatArray) -> FloatArray:
    rows = np.broadcast_to(rows, sums.shape)
    return np.divide(sums, rows, out=np.full(sums.shape, np.nan), where=rows > 0)


def _percentiles(resampled: FloatArray) -> tuple[FloatArray, FloatArray]:
    tails = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
    bounds = np.full((2, resampled.shape[1]), np.nan)
    known = np.isfinite(resampled)
    whole = known.all(axis=0)
    if whole.any():
        bounds[:, whole] = np.quantile(np.ascontiguousarray(resampled[:, whole].T), tails, axis=1)
    for column in np.flatnonzero(~whole & known.any(axis=0)):
        bounds[:, column] = np.quantile(resampled[known[:, column], column], tails)
    return bounds[0], bounds[1]
