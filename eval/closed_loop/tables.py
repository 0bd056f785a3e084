"""Closed-loop runs side by side: what `nsdrive simulate` scored and measured, as tables.

A best is marked, and a difference taken, only among runs that drove the same scenarios in the same way as the first; a line names
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eval.bootstrap import cluster_mean
from eval.closed_loop.film_page import films_html, films_markdown
from eval.closed_loop.timing import read_timing
from eval.report.page import clean
from eval.report.table import Cell, Table, markdown_text
from eval.score import CLOSED_LOOP_SCORE_VERSION, SHORT, TERMS
from nsdrive.counted import counted

Rows = Sequence[Mapping[str, Any]]
HOW = ("agents", "start_tick", "duration_s")  # of the settings
ENOUGH = 5  # chosen by us: resampling fewer scenarios says nothing
DIFFERENCE = "Score minus the first run's, by family or type, with 95 % intervals"
NOTE = (
    "Every scenario driven from its start, the planner in the seat at every tenth of a second. The score is nuPlan's closed-loop "
    f"score (version {CLOSED_LOOP_SCORE_VERSION} of ours): the first four terms multiply, the others are weighted 5, 5, 4 and 2; a "
    "scenario that could not be driven counts 0 in every column. Progress is a share of the log's driver's; in generated scenes, "
    "which have none, of a reference planner's with nobody else about. Hit: scenarios in which the ego touched anything, whoever "
    "was at fault; off road is how far a corner of the ego left the road at most; time to collision is the least of the drive, "
    "infinite ones left out."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedLoopRun:
    """One folder of `nsdrive simulate`."""

    folder: Path
    results: Mapping[str, Any]

    @property
    def rows(self) -> Rows:
        found: Rows = self.results["scenarios"]
        return found

    @cached_property
    def timing(self) -> Mapping[str, Any] | None:
        """Its timing.json, None where there is none."""
        return read_timing(self.folder)

    @property
    def agents(self) -> str:
        return str(self.how["agents"] or "unknown")

    @property
    def how(self) -> Mapping[str, Any]:
        """What a drive's score depends on beside the scenario and the planner."""
        config = self.results.get("config", {})
        return {name: config.get(name) for name in HOW}

    def items(self, kind: str | None = None) -> frozenset[str]:
        """All scenarios, driven or not; those of a type."""
        every = (*self.rows, *self.results["failures"])
        return frozenset(str(row["item"]) for row in every if kind in (None, row["scenario_type"]))

    def driven(self, family: str) -> frozenset[str]:
        """The scenarios of a family that were driven: of others the family is not known."""
        return frozenset(str(row["item"]) for row in self.rows if row.get("family") == family)


def checked_drive(folder: Path, results: Mapping[str, Any]) -> ClosedLoopRun:
    """The results of a folder as a run; ValueError where another version scored them."""
    if results.get("score_version") != CLOSED_LOOP_SCORE_VERSION:
        raise ValueError(
            f"{folder / 'results.json'} has closed-loop score version {results.get('score_version')}, this program "
            f"{CLOSED_LOOP_SCORE_VERSION}: run `nsdrive simulate` again, so that all numbers mean the same"
        )
    return ClosedLoopRun(folder=folder, results=results)


def closed_loop_html(runs: Sequence[ClosedLoopRun]) -> str:
    """A section of the page."""
    warned = [f'<div class="warn">{clean(line)}</div>' for line in (*_unlike(runs), *_failed(runs))]
    tables = [f"<details{how}><summary>{title}</summary>{table.html()}</details>" for title, how, table in _more(runs)]
    return (
        f"<h2>Closed loop</h2><p class=note>{NOTE}</p>{''.join(warned)}{overall(runs).html()}"
        f"{films_html([(run.folder, run.results) for run in runs])}{''.join(tables)}"
    )


def closed_loop_markdown(runs: Sequence[ClosedLoopRun]) -> list[str]:
    """The same as lines of Markdown."""
    parts = ["## Closed loop", "", NOTE, "", *(f"- {markdown_text(line)}" for line in (*_unlike(runs), *_failed(runs)))]
    parts += ["", overall(runs).markdown(), ""]
    for title, _, table in _more(runs):
        parts += [f"### {title}", "", table.markdown(), ""]
    return [*parts, *films_markdown([(run.folder, run.results) for run in runs])]


def _more(runs: Sequence[ClosedLoopRun]) -> list[tuple[str, str, Table]]:
    """The tables below the first: title, whether open on the page, table."""
    compared = [(DIFFERENCE, " open", differences(runs))] if any(_like_first(runs)[1:]) else []
    families = any(row.get("family") for run in runs for row in run.rows)
    return [
        *compared,
        ("Measures", " open", measures(runs)),
        *([("Seconds that the planner thinks", " open", thinking(runs))] if any(run.timing for run in runs) else []),
        *([("Answers of a model", " open", answers(runs))] if any(_asked(run) for run in runs) else []),
        *([("Score by family", " open", by_family(runs))] if families else []),
        ("Score by scenario type", "" if families else " open", by_type(runs)),
        ("Every scenario", "", by_scenario(runs)),
    ]


def overall(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per run: the score and its terms, means over all scenarios."""
    bests = _bests(runs, [run.results["summary"]["all"]["score"] for run in runs], [run.items() for run in runs])
    lines = []
    for run, best in zip(runs, bests, strict=True):
        group = run.results["summary"]["all"]
        planners = sorted({str(row["planner"]) for row in run.rows})
        lines.append(
            [
                Cell(text=run.folder.name, below=f"{', '.join(planners)}; agents: {run.agents}"),
                Cell(text=str(group["n"])),
                Cell(text=str(group["failed"])),
                Cell(text=f"{group['score']:.4f}", best=best),
                *(Cell(text=f"{group['terms'][term]:.3f}") for term in TERMS),
            ]
        )
    return Table(heads=["", "scenarios", "failed", "score", *SHORT.values()], rows=lines)


def measures(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per run: plain numbers of the scenarios that were driven."""
    heads = [
        "",
        "hit",
        "off road,\nworst m",
        "least time to\ncollision s",
        "driven,\nmean m",
        "jerk, mean of\nmaxima m/s³",
        "hardest\nbraking m/s²",
    ]
    lines = [
        [
            Cell(text=run.folder.name),
            _collisions(run.rows),
            Cell(text=_of(max, run.rows, "off_road_m")),
            Cell(text=_of(min, run.rows, "min_ttc_s")),
            Cell(text=_of(_mean, run.rows, "progress_m", digits=1)),
            Cell(text=_of(_mean, run.rows, "max_abs_jerk_mps3")),
            Cell(text=_of(min, run.rows, "min_accel_mps2")),
        ]
        for run in runs
    ]
    return Table(heads=heads, rows=lines)


def thinking(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per run: seconds per tick and per answer. They were measured, so they differ from run to run."""
    heads = [
        "",
        *(
            f"{name},\nper {kind.removeprefix('per_')}"
            for kind in ("per_tick", "per_answer")
            for name in _SHOWN.values()
        ),
    ]
    lines = []
    for run in runs:
        cells = [Cell(text=run.folder.name)]
        for kind in ("per_tick", "per_answer"):
            measured = run.timing[kind] if run.timing else None
            cells += [Cell(text="–" if measured is None else f"{measured[name]:.4f}") for name in _SHOWN]
        lines.append(cells)
    return Table(heads=heads, rows=lines)


_SHOWN = {"mean_s": "mean s", "p50_s": "median s", "p95_s": "95 % s", "max_s": "longest s"}


def answers(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per run of a planner that is asked: how many answers, how many of them late, how many not to be read."""
    lines = []
    for run in runs:
        if (asked := _asked(run)) is None:
            continue
        shares = [
            Cell(text=str(asked[name]), below=f"{100 * asked[name] / max(1, asked['asked']):.1f} %")
            for name in ("late", "unreadable")
        ]
        lines.append([Cell(text=run.folder.name), Cell(text=str(asked["asked"])), *shares])
    return Table(heads=["", "asked", "late", "unreadable"], rows=lines)


def _asked(run: ClosedLoopRun) -> Mapping[str, int] | None:
    found: Mapping[str, int] | None = run.results["summary"]["all"].get("answers")
    return found


def by_family(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per family of generated scenarios, one column per run: the mean score of those driven, and beneath it the least and
    the greatest."""
    families = sorted({str(row["family"]) for run in runs for row in run.rows if row.get("family")})
    lines = []
    for family in families:
        scores = [[float(row["score"]) for row in run.rows if row.get("family") == family] for run in runs]
        means = [_mean(found) if found else None for found in scores]
        bests = _bests(runs, means, [run.driven(family) for run in runs])
        lines.append(
            [
                Cell(text=family),
                *(
                    Cell(
                        text=f"{mean:.4f}",
                        below=(f"{min(found):.2f} to {max(found):.2f}, " if len(found) > 1 else "") + f"n {len(found)}",
                        best=best,
                    )
                    if mean is not None
                    else Cell(text="–")
                    for found, mean, best in zip(scores, means, bests, strict=True)
                ),
            ]
        )
    return Table(heads=["", *(run.folder.name for run in runs)], rows=lines)


def by_type(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per scenario type, one column per run: score, and beneath it how many scenarios and how many hits."""
    types = sorted({name for run in runs for name in run.results["summary"]} - {"all"})
    lines = []
    for kind in types:
        groups = [run.results["summary"].get(kind) for run in runs]
        scores = [group["score"] if group else None for group in groups]
        bests = _bests(runs, scores, [run.items(kind) for run in runs])
        cells = [
            Cell(
                text=f"{group['score']:.4f}",
                below=f"{group['n']} driven" + (f", {group['collisions']} hit" if group["collisions"] else ""),
                best=best,
            )
            if group
            else Cell(text="–")
            for group, best in zip(groups, bests, strict=True)
        ]
        lines.append([Cell(text=kind), *cells])
    return Table(heads=["", *(run.folder.name for run in runs)], rows=lines)


def differences(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per family (of generated scenarios) or type, one column per run that is like the first: the mean over the scenarios
    of score minus the first run's, and from ENOUGH scenarios on its 95 % interval, scenarios resampled."""
    runs = [run for run, is_like in zip(runs, _like_first(runs), strict=True) if is_like]
    first, *others = (_scores(run) for run in runs)
    group_of: dict[str, str] = {}
    for run in runs:
        group_of.update({str(row["item"]): str(row["scenario_type"]) for row in run.results["failures"]})
    for run in runs:  # where it was driven, the family is known
        group_of.update({str(row["item"]): str(row["family"] or row["scenario_type"]) for row in run.rows})
    groups = ["all", *sorted({group_of[item] for item in first})]
    lines = []
    for name in groups:
        cells = [Cell(text=name)]
        for other in others:
            pairs = [(score, other[item]) for item, score in first.items() if name in ("all", group_of[item])]
            gained = np.array([[b - a] for a, b in pairs])
            estimate = cluster_mean(gained, np.ones(len(pairs), dtype=bool), np.arange(len(pairs)), seed=0)
            low, high = float(estimate.low[0]), float(estimate.high[0])
            interval = f"[{low:+.4f}, {high:+.4f}] " if len(pairs) >= ENOUGH else ""
            cells.append(Cell(text=f"{float(estimate.value[0]):+.4f}", below=f"{interval}n {len(pairs)}"))
        lines.append(cells)
    return Table(heads=["", *(f"{run.folder.name}\nminus {runs[0].folder.name}" for run in runs[1:])], rows=lines)


def _scores(run: ClosedLoopRun) -> dict[str, float]:
    """Item -> score, 0 for what was not driven."""
    missing = {str(row["item"]): 0.0 for row in run.results["failures"]}
    return missing | {str(row["item"]): float(row["score"]) for row in run.rows}


def by_scenario(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per scenario, one column per run: score, and beneath it every term that is not 1."""
    scored = [{str(row["item"]): row for row in run.rows} for run in runs]
    failed = [{str(row["item"]) for row in run.results["failures"]} for run in runs]
    lines = []
    for name in sorted({name for names in (*scored, *failed) for name in names}):
        cells = [Cell(text=name)]
        for rows, missing in zip(scored, failed, strict=True):
            if name in rows:
                row = rows[name]
                cost = [f"{SHORT[term]} {row['terms'][term]:.2f}" for term in TERMS if row["terms"][term] < 1.0]
                cells.append(Cell(text=f"{row['score']:.4f}", below=", ".join(cost)))
            else:
                cells.append(Cell(text="0.0000", below="not driven") if name in missing else Cell(text="–"))
        lines.append(cells)
    return Table(heads=["", *(run.folder.name for run in runs)], rows=lines)


def _like_first(runs: Sequence[ClosedLoopRun]) -> list[bool]:
    """Which runs may be compared with the first: the same scenarios, driven or not, and the same HOW."""
    first = runs[0]
    return [bool(first.items()) and run.items() == first.items() and run.how == first.how for run in runs]


def _unlike(runs: Sequence[ClosedLoopRun]) -> list[str]:
    """A line for each run that may not."""
    first, *others = runs
    lines = []
    for run, is_like in zip(others, _like_first(runs)[1:], strict=True):
        if not is_like:
            common = counted(len(run.items() & first.items()), "scenario")
            why = [f"{common} in common, of {len(run.items())} and {len(first.items())}"]
            why += [
                f"{name}: {run.how[name]} and {first.how[name]}" for name in HOW if run.how[name] != first.how[name]
            ]
            lines.append(f"{run.folder.name}: not compared with {first.folder.name}: {'; '.join(why)}")
    return lines


def _bests(
    runs: Sequence[ClosedLoopRun], scores: Sequence[float | None], items: Sequence[frozenset[str]]
) -> list[bool]:
    """Which of the runs' scores are the best of those that may be compared, none where these do not differ. items: each score's."""
    alike = [is_like and of == items[0] for is_like, of in zip(_like_first(runs), items, strict=True)]
    known = [score for score, is_like in zip(scores, alike, strict=True) if is_like and score is not None]
    if not known or max(known) == min(known):
        return [False] * len(scores)
    return [is_like and score == max(known) for score, is_like in zip(scores, alike, strict=True)]


def _failed(runs: Sequence[ClosedLoopRun]) -> list[str]:
    """A line for each of a run's first five scenarios that were not driven."""
    return [
        f"{run.folder.name}: not driven: {row['item']}: {row['error']}"
        for run in runs
        for row in run.results["failures"][:5]
    ]


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
