"""Closed-loop runs side by side: what `nsdrive simulate` measured, as tables. No weights: each number with its unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.page import clean
from eval.table import Cell, Table, markdown_text

Rows = Sequence[Mapping[str, Any]]
NOTE = (
    "Every scenario driven from its start, the planner in the seat at every tenth of a second. Collisions are scenarios in "
    "which the ego touched anything, whoever was at fault; off road is how far a corner of the ego left the road at most; "
    "time to collision is the least of the drive, infinite ones left out."
)


@dataclass(frozen=True, kw_only=True)
class ClosedLoopRun:
    """One folder of `nsdrive simulate`."""

    folder: Path
    results: Mapping[str, Any]

    @property
    def rows(self) -> Rows:
        found: Rows = self.results["scenarios"]
        return found

    @property
    def agents(self) -> str:
        return str(self.results.get("config", {}).get("agents", "unknown"))


def closed_loop_html(runs: Sequence[ClosedLoopRun]) -> str:
    """A section of the page."""
    failed = [
        f'<div class="warn">{clean(run.folder.name)}: not driven: {clean(line)}</div>'
        for run in runs
        for line in run.results["failures"][:5]
    ]
    return (
        f"<h2>Closed loop</h2><p class=note>{NOTE}</p>{''.join(failed)}{overall(runs).html()}"
        f"<details open><summary>Collisions by scenario type</summary>{by_type(runs).html()}</details>"
    )


def closed_loop_markdown(runs: Sequence[ClosedLoopRun]) -> list[str]:
    """The same as lines of Markdown."""
    failed = [
        f"- {markdown_text(run.folder.name)}: not driven: {markdown_text(line)}"
        for run in runs
        for line in run.results["failures"][:5]
    ]
    title = "### Collisions by scenario type"
    return [
        "## Closed loop",
        "",
        NOTE,
        "",
        *failed,
        "",
        overall(runs).markdown(),
        "",
        title,
        "",
        by_type(runs).markdown(),
        "",
    ]


def overall(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per run."""
    heads = [
        "",
        "scenarios",
        "failed",
        "collisions",
        "off road,\nworst m",
        "least time to\ncollision s",
        "progress,\nmean m",
        "jerk, mean of\nmaxima m/s³",
        "hardest\nbraking m/s²",
    ]
    lines = []
    for run in runs:
        planners = sorted({str(row["planner"]) for row in run.rows})
        lines.append(
            [
                Cell(text=run.folder.name, below=f"{', '.join(planners)}; agents: {run.agents}"),
                Cell(text=str(len(run.rows))),
                Cell(text=str(len(run.results["failures"]))),
                _collisions(run.rows),
                Cell(text=_of(max, run.rows, "off_road_m")),
                Cell(text=_of(min, run.rows, "min_ttc_s")),
                Cell(text=_of(_mean, run.rows, "progress_m", digits=1)),
                Cell(text=_of(_mean, run.rows, "max_abs_jerk_mps3")),
                Cell(text=_of(min, run.rows, "min_accel_mps2")),
            ]
        )
    return Table(heads=heads, rows=lines)


def by_type(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per scenario type, one column per run."""
    types = sorted({str(row["scenario_type"]) for run in runs for row in run.rows})
    lines = [
        [
            Cell(text=kind),
            *(_collisions([row for row in run.rows if row["scenario_type"] == kind]) for run in runs),
        ]
        for kind in types
    ]
    return Table(heads=["", *(run.folder.name for run in runs)], rows=lines)


def _collisions(rows: Rows) -> Cell:
    if not rows:
        return Cell(text="–")
    hit = sum(len(row["collided_with"]) > 0 for row in rows)
    return Cell(text=f"{100 * hit / len(rows):.0f} %", below=f"{hit} of {len(rows)}")


def _of(take: Callable[[list[float]], float], rows: Rows, field: str, *, digits: int = 2) -> str:
    """A number over the rows that have one, a dash where none has."""
    values = [float(row[field]) for row in rows if row.get(field) is not None]
    return f"{take(values):.{digits}f}" if values else "–"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
