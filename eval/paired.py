"""Is one file better than another? Paired on the same samples, with an interval, a p-value, and a correction for many questions.

difference   mean over samples of a's measure minus b's; its interval by cluster bootstrap over scenarios (`eval.bootstrap`)
p            two-sided sign-flip permutation test: where a and b are exchangeable, the sum of a scenario's differences is as
             likely to have the other sign. Scenarios are flipped, not samples, which are not independent (Fisher's
             randomisation test; Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005, section 3.7). All
             2^S flips where there are at most FLIPS of them, else FLIPS random ones, the observed one counted in
p_holm       p corrected for all comparisons of the same measure (Holm, Scandinavian Journal of Statistics 6, 1979)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from eval.bootstrap import cells_of, cluster_mean, rounded, sums_by
from nsdrive.world.types import FloatArray

FLIPS = 8192  # chosen by us: the least p is then 1e-4
CHUNK = 512


def paired_tests(
    columns: Mapping[str, FloatArray],
    measures: Sequence[str],
    clusters: np.ndarray,
    seed: int,
    *,
    rivals: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Every pair of names, and every name against each rival (rivals among themselves are left out).

    columns: name -> (N, M), the measures of every sample, of the rivals too; nan where a sample has none: a pair counts the
    samples that both have. clusters (N,). With one scenario nothing can be said: low, high and p are None.
    """
    names = [name for name in columns if name not in rivals]
    pairs = [*combinations(names, 2), *((name, rival) for name in names for rival in rivals)]
    if not pairs:
        return []
    differences = np.stack([columns[a] - columns[b] for a, b in pairs], axis=1)  # (N, P, M)
    flat = differences.reshape(len(differences), -1)
    everywhere = np.ones(len(flat), dtype=bool)
    estimate = cluster_mean(flat, everywhere, clusters, seed)
    index, n = cells_of(clusters, seed)
    p = sign_flip_p(sums_by(index, np.nan_to_num(flat), n), seed).reshape(len(pairs), len(measures))
    rows = []
    for k, measure in enumerate(measures):
        corrected = holm(p[:, k])
        for i, (a, b) in enumerate(pairs):
            at = i * len(measures) + k
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "measure": measure,
                    "difference": rounded(estimate.value[at]),
                    "low": rounded(estimate.low[at]),
                    "high": rounded(estimate.high[at]),
                    "p": rounded(p[i, k]),
                    "p_holm": rounded(corrected[i]),
                }
            )
    return rows


def sign_flip_p(sums: FloatArray, seed: int) -> FloatArray:
    """(C,) two-sided p of each column of the scenarios' sums (S, C) under flips of whole scenarios; nan for one scenario."""
    n = len(sums)
    if n < 2:
        return np.full(sums.shape[1], np.nan)
    observed = np.abs(sums.sum(axis=0))
    bar = observed - 1e-9 * np.abs(sums).sum(axis=0)  # sums in another order differ in their last bits
    exact = 2**n <= FLIPS if n < 64 else False
    reached, done = np.zeros(sums.shape[1]), 2**n if exact else FLIPS
    rng = np.random.default_rng([seed, n, 2])
    for start in range(0, done, CHUNK):
        count = min(CHUNK, done - start)
        if exact:
            flipped = (np.arange(start, start + count)[:, None] >> np.arange(n)) & 1 == 1
        else:
            random = rng.integers(0, 256, (count, (n + 7) // 8), dtype=np.uint8)
            flipped = np.unpackbits(random, axis=1)[:, :n] == 1
        reached += (np.abs(np.where(flipped, -1.0, 1.0) @ sums) >= bar).sum(axis=0)
    return reached / done if exact else (1.0 + reached) / (1.0 + done)


def holm(p: FloatArray) -> FloatArray:
    """(P,) p-values corrected for all that are known of them, never above 1; nan stays nan."""
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected
