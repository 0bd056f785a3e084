"""The browser's table as data: every sample a row, what is so whoever answers, and what each predictions file made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from eval.report.cases import choose
from eval.report.runs import Row
from nsdrive.dataset import Dataset, Line, Sample
from nsdrive.vla.displacement import MISS_M

MOST_ROWS = 5_000  # chosen by us: lines of the table; a browser still sorts them at once

FIXED = (
    {"key": "sample", "title": "sample", "text": True},
    {"key": "type", "title": "scenario type", "text": True},
    {"key": "rule", "title": "binding rule", "text": True},
    {"key": "speed", "title": "speed m/s", "digits": 1},
)
TOLD = (  # a column, and where its value is in a row of samples.jsonl; one that no row has is left out
    ({"key": "ADE@3s", "title": "ADE@3s m", "digits": 2, "worse": True}, "3s/ADE"),
    ({"key": "FDE@3s", "title": "FDE@3s m", "digits": 2, "worse": True}, "3s/FDE"),
    ({"key": "miss", "title": f"miss, > {MISS_M:g} m", "flag": True, "worse": True}, "3s/MR"),
    ({"key": "PDMS", "title": "PDMS", "digits": 2}, "PDMS"),
    ({"key": "true", "title": "claims true %", "digits": 0, "scale": 100, "least": 1.0}, "claims_true"),
    ({"key": "replay", "title": "text against waypoints m", "digits": 2, "worse": True}, "replay_error_m"),
    ({"key": "error", "title": "error", "text": True, "worse": True}, "error"),
)


def table_of(
    rows: Sequence[Row],
    main_rows: Sequence[Mapping[str, Any]],
    speeds: Mapping[str, float],
    chosen: Mapping[str, list[str]],
) -> dict[str, Any]:
    """{"fixed", "told": columns, "rows": values of the fixed ones, "scores": file -> values of the told ones}."""
    kept = list(main_rows)
    if len(kept) > MOST_ROWS:
        more = choose(main_rows, {}, MOST_ROWS)
        kept = [row for row in main_rows if row["id"] in chosen or row["id"] in more][:MOST_ROWS]
    by_file = {row.name: {found["id"]: found for found in row.run.sample_rows(row.key)} for row in rows}
    told = [
        (column, at)
        for column, at in TOLD
        if at == "error" or any(at in row for found in by_file.values() for row in found.values())
    ]
    return {
        "fixed": FIXED,
        "told": [column for column, _ in told],
        "rows": [[r["id"], r.get("scenario_type"), r.get("binding_rule"), speeds.get(r["id"])] for r in kept],
        "scores": {name: [_told(found.get(r["id"], {}), told) for r in kept] for name, found in by_file.items()},
    }


def _told(row: Mapping[str, Any], told: Sequence[tuple[Mapping[str, Any], str]]) -> list[Any]:
    values = [row.get(at) for _, at in told]
    return [bool(v) if c.get("flag") and v is not None else v for (c, _), v in zip(told, values, strict=True)]


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """By sample id: speed [m/s] at the anchor, after -> before of the minimal pairs, and where its line lies."""

    speeds: dict[str, float] = field(default_factory=dict)
    pairs: dict[str, str] = field(default_factory=dict)
    spans: dict[str, tuple[Path, int, int]] = field(default_factory=dict)

    def sample(self, sample_id: str) -> Sample:
        """Read one sample. Raises ValueError or OSError."""
        shard, start, length = self.spans[sample_id]
        with shard.open("rb") as file:
            file.seek(start)
            return Line(shard=shard, number=0, start=start, data=file.read(length)).sample()


class _More(msgspec.Struct):
    ego_history: list[dict[str, float]]
    edit: Any = None


class _Row(msgspec.Struct):
    id: str
    nsdrive: _More


def split_facts(dataset: Dataset, split: str) -> SplitFacts:
    """One pass over a split that reads of each line only what the table needs; a line that is no sample is left out."""
    facts, decoder = SplitFacts(), msgspec.json.Decoder(_Row)
    for line in dataset.lines(split):
        try:
            row = decoder.decode(line.data)
            now = row.nsdrive.ego_history[-1]
            facts.speeds[row.id] = round(math.hypot(now["vx_mps"], now["vy_mps"]), 2)
        except (msgspec.MsgspecError, LookupError):
            continue
        facts.spans[row.id] = (line.shard, line.start, len(line.data))
        if isinstance(row.nsdrive.edit, dict) and "of" in row.nsdrive.edit:
            facts.pairs[row.id] = str(row.nsdrive.edit["of"])
    return facts
