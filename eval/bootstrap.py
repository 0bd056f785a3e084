"""Means with 95 % bootstrap intervals that resample scenarios, not samples.

Samples of one scenario share a map, the agents and the planner's mood: they are not independent, and an interval that
resamples samples is too narrow. The cluster bootstrap draws S scenarios with replacement out of S and takes every sample
of each; the interval is the 2.5 and 97.5 percentile of the means (Davison and Hinkley, Bootstrap Methods and their
Application, 1997, sections 3.8 and 5.3). With one scenario there is nothing to resample and no interval is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsdrive.world.types import FloatArray

RESAMPLES = 1000  # chosen by us: the percentile's own noise is then a few percent of the interval's width
LEVEL = 0.95
CHUNK = 50  # resamples in memory at once


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
    labels, index = np.unique(clusters, return_inverse=True)
    here = counts[:, None] & np.isfinite(values)
    sums = _sum_by(index, np.where(here, values, 0.0), len(labels))
    rows = _sum_by(index, here.astype(float), len(labels))
    value = _divide(sums.sum(axis=0), rows.sum(axis=0))
    unknown = np.full((RESAMPLES, values.shape[1]), np.nan)
    resampled = _resample(sums, rows, seed) if len(labels) > 1 else unknown
    low, high = _percentiles(resampled)
    return Estimate(value=value, low=low, high=high, resampled=resampled)


def cluster_ratio(parts: FloatArray, wholes: FloatArray, clusters: np.ndarray, seed: int) -> Estimate:
    """Sum of parts over sum of wholes, column by column, and its interval: precision, recall, shares of what applies.

    parts, wholes (N, C): a row to which a measure does not apply has 0 in both. The draws are those of `cluster_mean`.
    """
    labels, index = np.unique(clusters, return_inverse=True)
    above, below = _sum_by(index, parts, len(labels)), _sum_by(index, wholes, len(labels))
    value = _divide(above.sum(axis=0), below.sum(axis=0))
    unknown = np.full((RESAMPLES, parts.shape[1]), np.nan)
    resampled = _resample(above, below, seed) if len(labels) > 1 else unknown
    low, high = _percentiles(resampled)
    return Estimate(value=value, low=low, high=high, resampled=resampled)


def _resample(sums: FloatArray, rows: FloatArray, seed: int) -> FloatArray:
    n_clusters = len(sums)
    rng = np.random.default_rng([seed, n_clusters])
    means = []
    for start in range(0, RESAMPLES, CHUNK):
        drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1.0 / n_clusters), size=min(CHUNK, RESAMPLES - start))
        means.append(_divide(drawn @ sums, drawn @ rows))
    return np.concatenate(means)


def _sum_by(index: np.ndarray, values: FloatArray, n: int) -> FloatArray:
    return np.stack([np.bincount(index, weights=column, minlength=n) for column in values.T], axis=1)


def _divide(sums: FloatArray, rows: FloatArray) -> FloatArray:
    return np.divide(sums, rows, out=np.full(sums.shape, np.nan), where=rows > 0)


def _percentiles(resampled: FloatArray) -> tuple[FloatArray, FloatArray]:
    tails = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
    bounds = np.full((2, resampled.shape[1]), np.nan)
    for column, means in enumerate(resampled.T):
        known = means[np.isfinite(means)]
        if len(known):
            bounds[:, column] = np.quantile(known, tails)
    return bounds[0], bounds[1]
