"""The manoeuvre table of the report: which planner passes what at a glance, then every manoeuvre with a picture per planner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.closed_loop.tables import ClosedLoopRun
from eval.manoeuvres.judge import FAILS, HOLDS, NOT_EXPECTED
from eval.manoeuvres.pictures import Drive, picture, speed_legend, view_of
from eval.report.page import clean
from eval.report.table import Cell, Table, markdown_text
from nsdrive.dataset import split_lines
from nsdrive.scenarios.manoeuvres import MANOEUVRES, load_manoeuvre
from nsdrive.world.types import HISTORY_TICKS

NOTE = (
    "Exact scenes with one thing to get right each, driven from their start. A manoeuvre is passed where nothing that is expected "
    "of the planner fails; what a planner is not made for (changing lanes, say) is not expected of it: a grey circle, not a tick. "
    "Each picture: driving goes to the right, the trail's colour is the ego's speed, a dot each second; outlined where the ego "
    "starts, filled the moment when it was nearest to anybody, a cross where it touched somebody."
)
PARTLY = "partly"  # passed, but for what is not expected of this planner
MARKS = {HOLDS: "✓", FAILS: "✗", NOT_EXPECTED: "–", PARTLY: "○"}
CSS = {HOLDS: "ok", FAILS: "no", NOT_EXPECTED: "na", PARTLY: "na"}

Rows = Mapping[str, Mapping[str, Any]]  # manoeuvre -> its row of results.json


def has_manoeuvres(run: ClosedLoopRun) -> bool:
    """Whether the run drove any named manoeuvre."""
    return any(row.get("manoeuvre") for row in run.rows)


def manoeuvres_html(runs: Sequence[ClosedLoopRun]) -> str:
    """A section of the page."""
    rows = [_rows(run) for run in runs]
    drives = [_drives(run) for run in runs]
    names = [name for name in MANOEUVRES if any(name in found for found in rows)]
    heads = _heads(runs)
    cases = "".join(_case(name, heads, rows, drives) for name in names)
    return (
        f"<h2>Manoeuvres</h2><p class=note>{NOTE}</p>{_failures(runs)}{overall(runs).html()}"
        f"{_glance(names, heads, rows)}{speed_legend()}{cases}"
    )


def manoeuvres_markdown(runs: Sequence[ClosedLoopRun]) -> list[str]:
    """The same as lines of Markdown, without pictures."""
    rows = [_rows(run) for run in runs]
    names = [name for name in MANOEUVRES if any(name in found for found in rows)]
    table = Table(
        heads=["manoeuvre", *_heads(runs)],
        rows=[[Cell(text=name), *(_cell(found.get(name)) for found in rows)] for name in names],
    )
    return ["## Manoeuvres", "", markdown_text(NOTE), "", overall(runs).markdown(), "", table.markdown(), ""]


def overall(runs: Sequence[ClosedLoopRun]) -> Table:
    """One line per run: manoeuvres and checks passed, and nuPlan's score over them."""
    lines = []
    for head, run in zip(_heads(runs), runs, strict=True):
        judged = [row["manoeuvre"] for row in run.rows if row.get("manoeuvre")]
        checks = [check["status"] for verdicts in judged for check in verdicts["checks"]]
        crashed = sum(bool(row["at_fault"]) for row in run.rows if row.get("manoeuvre"))
        passed = [verdicts for verdicts in judged if verdicts["passed"]]
        partly = sum(bool(verdicts["limited"]) for verdicts in passed)
        n = len(judged) + len(run.results["failures"])
        lines.append(
            [
                Cell(text=head, below=f"agents: {run.agents}"),
                Cell(text=f"{len(passed)} of {n}", below=f"{len(passed) - partly} wholly, {partly} as far as expected"),
                Cell(text=str(crashed)),
                Cell(text=str(checks.count(HOLDS))),
                Cell(text=str(checks.count(FAILS))),
                Cell(text=str(checks.count(NOT_EXPECTED))),
                Cell(text=f"{run.results['summary']['all']['score']:.2f}"),
            ]
        )
    heads = ["", "manoeuvres\npassed", "with an at-fault\ncollision", "checks\nhold", "checks\nfail", "not\nexpected"]
    return Table(heads=[*heads, "nuPlan's score,\nmean"], rows=lines)


def _glance(names: Sequence[str], heads: Sequence[str], rows: Sequence[Rows]) -> str:
    """Every manoeuvre in a line, a mark per planner, in columns."""
    items = []
    for name in names:
        marks = "".join(
            f'<b class="{css}" title="{clean(head)}">{mark}</b>'
            for head, (mark, css) in zip(heads, (_mark(found.get(name)) for found in rows), strict=True)
        )
        items.append(f'<li><a href="#m-{name}">{clean(name)}</a><span>{marks}</span></li>')
    order = f"<p class=note>Marks in this order: {clean(', '.join(heads))}.</p>" if len(heads) > 1 else ""
    return f'{order}<ul class="glance">{"".join(items)}</ul>'


def _case(name: str, heads: Sequence[str], rows: Sequence[Rows], drives: Sequence[Mapping[str, Drive]]) -> str:
    scenario = load_manoeuvre(name)
    driven = [found[name] for found in drives if name in found]
    if any(HISTORY_TICKS + len(drive.states) != scenario.n_ticks for drive in driven):
        raise ValueError(
            f"A drive through {name!r} is not as long as the manoeuvre is now: run `nsdrive simulate` again"
        )
    view = view_of(driven) if driven else None
    cells = []
    for head, found, of_run in zip(heads, rows, drives, strict=True):
        mark, css = _mark(found.get(name))
        if name not in found or view is None or name not in of_run:
            cells.append(f'<div><h4>{clean(head)}</h4><p class="note">not driven</p></div>')
            continue
        checks = "".join(
            f'<li class="{CSS[c["status"]]}"><b>{MARKS[c["status"]]}</b> {clean(c["says"])}'
            f"<em>{clean(c['measured'] or c['status'])}</em></li>"
            for c in found[name]["manoeuvre"]["checks"]
        )
        shown = picture(scenario, of_run[name], view, f"{head}: {name}")
        cells.append(
            f'<div><h4><b class="{css}">{mark}</b> {clean(head)}</h4>{shown}<ul class="checks">{checks}</ul></div>'
        )
    return (
        f'<section class="case" id="m-{name}"><header><h3>{clean(name)}</h3>'
        f"<span>{clean(MANOEUVRES[name].sentence)}</span></header>"
        f'<div class="planners">{"".join(cells)}</div></section>'
    )


def _mark(row: Mapping[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return MARKS[NOT_EXPECTED], CSS[NOT_EXPECTED]
    verdicts = row["manoeuvre"]
    status = FAILS if not verdicts["passed"] else PARTLY if verdicts["limited"] else HOLDS
    return MARKS[status], CSS[status]


def _cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell(text="not driven")
    failing = [f"{c['says']}: {c['measured']}" for c in row["manoeuvre"]["checks"] if c["status"] == FAILS]
    mark = "FAIL" if failing else "as far as expected" if row["manoeuvre"]["limited"] else "pass"
    return Cell(text=mark, below="; ".join(failing), best=mark == "pass")


def _heads(runs: Sequence[ClosedLoopRun]) -> list[str]:
    """The planner of each run; its folder too where two runs have the same, or where none drove."""
    planners = [", ".join(sorted({str(row["planner"]) for row in run.rows})) for run in runs]
    return [
        name if name and planners.count(name) == 1 else f"{name} ({run.folder.name})".strip()
        for name, run in zip(planners, runs, strict=True)
    ]


def _failures(runs: Sequence[ClosedLoopRun]) -> str:
    lines = [
        f"{run.folder.name}: {failure['item']}: {failure['error']}"
        for run in runs
        for failure in run.results["failures"]
    ]
    return "".join(f'<div class="warn">{clean(line)}</div>' for line in lines)


def _rows(run: ClosedLoopRun) -> Rows:
    return {row["manoeuvre"]["manoeuvre"]: row for row in run.rows if row.get("manoeuvre")}


def _drives(run: ClosedLoopRun) -> dict[str, Drive]:
    """Scenario -> the rollout. FileNotFoundError where the folder has none."""
    path = run.folder / "rollouts.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{run.folder} has results.json but no rollouts.jsonl: run `nsdrive simulate` again")
    lines = (json.loads(line) for line in split_lines(path))
    replayed = run.agents == "replay"
    return {line["scenario"]: Drive(states=np.array(line["states"], dtype=float), replayed=replayed) for line in lines}
