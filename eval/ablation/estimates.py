"""Means over several seeds' answers to the same samples, and the ratio of two of them, each with its interval.

Two things could have been otherwise: which scenarios are tested, and which seeds were trained. An interval over scenarios alone
(`eval.bootstrap`, seeds averaged) says how sure a number is for these very runs; one over both, how sure it is for the recipe.
Both resample scenarios together for everything that is compared; seeds are drawn anew for each side. A mean over S drawn seeds
has (S - 1) / S of the variance that it should have, which with three seeds matters, so it is stretched about the mean of all
seeds by the root of S / (S - 1). With two or three seeds the interval is a rough guess all the same: the seeds' own values
stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.bootstrap import LEVEL, RESAMPLES, Estimate, cluster_mean, rounded
from nsdrive.world.types import FloatArray

MEASURES = {"3s/ADE": np.inf, "3s/MR": 1.0}  # the most that each can be


@dataclass(frozen=True, kw_only=True, eq=False)
class Seeds:
    """One measure of S seeds. values (S,); over_scenarios, over_both (RESAMPLES,): the resampled means over seeds.

    over_both is nan where there is one seed: it does not tell what another would give.
    """

    values: FloatArray
    over_scenarios: FloatArray
    over_both: FloatArray

    @property
    def mean(self) -> float:
        return float(self.values.mean())


def seeds_of(
    columns: Sequence[FloatArray], clusters: np.ndarray, *, seed: int, side: int, most: float = np.inf
) -> Seeds:
    """columns: each seed's measure of the same N samples, (N,) each. clusters (N,): their scenarios. side: sets which seeds are
    drawn; another for everything that is trained apart. most: that the measure can be."""
    everything = np.ones(len(clusters), dtype=bool)
    estimate: Estimate = cluster_mean(np.stack(columns, axis=1), everything, clusters, seed)
    mean = estimate.resampled.mean(axis=1)
    return Seeds(
        values=estimate.value,
        over_scenarios=mean,
        over_both=_with_seeds(estimate.resampled, np.random.default_rng([seed, side, 3]), most),
    )


def cell_of(one: Seeds) -> dict[str, Any]:
    """As results hold it."""
    spread = float(one.values.std(ddof=1)) if len(one.values) > 1 else np.nan
    return {
        "value": rounded(one.mean),
        **_bounds(one.over_scenarios),
        **{f"{name}_with_seeds": bound for name, bound in _bounds(one.over_both).items()},
        "seeds": [rounded(value) for value in one.values],
        "seeds_sd": rounded(spread),
    }


def ratio_of(above: Seeds, below: Seeds) -> dict[str, Any]:
    """One mean divided by another of the same samples; low and high over scenarios and seeds both, None of one seed. All None
    where it divides by 0."""
    if not below.mean > 0.0:
        return {"value": None, "low": None, "high": None, "low_same_runs": None, "high_same_runs": None}
    both = _bounds(_divided(above.over_both, below.over_both))
    same = _bounds(_divided(above.over_scenarios, below.over_scenarios))
    return {
        "value": rounded(above.mean / below.mean),
        **both,
        **{f"{name}_same_runs": bound for name, bound in same.items()},
    }


def _with_seeds(resampled: FloatArray, rng: np.random.Generator, most: float) -> FloatArray:
    """(RESAMPLES, S) -> (RESAMPLES,): the mean of as many seeds drawn with replacement, anew in each row, and stretched."""
    n = resampled.shape[1]
    mean = resampled.mean(axis=1)
    if n < 2:
        return np.full_like(mean, np.nan)
    drawn = rng.integers(0, n, size=(RESAMPLES, n))
    off = np.take_along_axis(resampled, drawn, axis=1).mean(axis=1) - mean
    return np.asarray(np.clip(mean + off * np.sqrt(n / (n - 1)), 0.0, most))


def _divided(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0.0)


def _bounds(resampled: FloatArray) -> Mapping[str, float | None]:
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return {"low": None, "high": None}
    low, high = np.quantile(known, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return {"low": rounded(float(low)), "high": rounded(float(high))}
