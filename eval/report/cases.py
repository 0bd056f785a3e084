"""Which samples a report shows in full, and why: what a reviewer would ask for first, the same for the same results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN_IN_FULL = 40  # chosen by us: with eight cameras each the page stays below 15 MB
MOST_FAILED, MOST_FALSE, LARGEST = 4, 6, 6  # chosen by us: of 40, so that room is left for the usual ones

Rows = Sequence[Mapping[str, Any]]  # of samples.jsonl, one predictions file


def choose(rows: Rows, pairs: Mapping[str, str], limit: int = SHOWN_IN_FULL) -> dict[str, list[str]]:
    """Sample id -> why it is shown, at most `limit` of them, the most telling first.

    By strict ADE@3s per binding rule (worst, median, best), failed answers, least true texts, largest errors, and some at
    random; of a minimal pair both. pairs: after -> before, of the samples that are there. Ties go to the lesser id.
    """
    known = {row["id"] for row in rows}
    partners: dict[str, list[str]] = {}
    for after, before in pairs.items():
        if after in known and before in known:
            partners.setdefault(after, []).append(before)
            partners.setdefault(before, []).append(after)
    chosen: dict[str, list[str]] = {}
    for sample_id, reason in _ranked(rows):
        if sample_id in chosen:
            chosen[sample_id].append(reason)
            continue
        if len(chosen) >= limit:
            continue
        chosen[sample_id] = [reason]
        for other in sorted(partners.get(sample_id, []))[:1]:  # one is enough to compare
            if other not in chosen and len(chosen) < limit:
                chosen[other] = [f"the other of a pair with {sample_id}"]
    for sample_id in _shuffled(known - set(chosen))[: max(0, limit - len(chosen))]:
        chosen[sample_id] = ["at random"]
    return chosen


def _ranked(rows: Rows) -> Iterable[tuple[str, str]]:
    """(sample id, why), the most telling first; an id may come more than once."""
    complete = sorted((r for r in rows if r["error"] is None), key=lambda r: (r["3s/ADE"], r["id"]))
    by_rule: dict[str, list[str]] = {}
    for row in complete:
        by_rule.setdefault(row.get("binding_rule") or "any rule", []).append(row["id"])
    rules = sorted(by_rule, key=lambda rule: (-len(by_rule[rule]), rule))
    kinds: dict[str, str] = {}  # the first of each kind of failure
    for row in rows:
        if row["error"] is not None:
            kinds.setdefault(row["error"], row["id"])
    yield from ((by_rule[rule][-1], f"worst of {rule}") for rule in rules)
    yield from ((sample_id, "failed") for sample_id in list(kinds.values())[:MOST_FAILED])
    false = (r for r in complete if r.get("claims_true") is not None and r["claims_true"] < 1.0)
    least = sorted(false, key=lambda r: (r["claims_true"], r["id"]))
    yield from ((row["id"], "least true text") for row in least[:MOST_FALSE])
    yield from ((row["id"], "largest error") for row in complete[-LARGEST:][::-1])
    yield from ((by_rule[rule][(len(by_rule[rule]) - 1) // 2], f"median of {rule}") for rule in rules)
    yield from ((by_rule[rule][0], f"best of {rule}") for rule in rules)


def _shuffled(ids: Iterable[str]) -> list[str]:
    """In an order that has nothing to do with what the ids mean."""
    return sorted(ids, key=lambda sample_id: hashlib.sha256(sample_id.encode("utf-8", "replace")).digest())
