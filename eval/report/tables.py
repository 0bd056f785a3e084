"""The report's tables of predictions: headline, every measure, by group, and what the texts are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.displacement import HORIZONS
from eval.report.runs import Comparison, Row
from eval.report.table import Cell, Table

SCALE = {"ADE": 1.0, "FDE": 1.0, "MR": 100.0, "AHE": 1.0, "FHE": 1.0}
UNIT = {"ADE": "m", "FDE": "m", "MR": "%", "AHE": "°", "FHE": "°"}
DIGITS = {"ADE": 2, "FDE": 2, "MR": 1, "AHE": 1, "FHE": 1}


def headline(comparison: Comparison) -> Table:
    """Every row: strict at all horizons with intervals, then parsed, then how many answers failed."""
    strict = [("1s", "ADE"), ("2s", "ADE"), ("3s", "ADE"), ("5s", "ADE"), ("3s", "FDE"), ("3s", "MR"), ("3s", "FHE")]
    parsed = [("3s", "ADE"), ("3s", "MR")]
    heads = [
        "",
        *(f"{measure}@{horizon}\n{UNIT[measure]}" for horizon, measure in strict),
        *(f"parsed\n{measure}@{horizon} {UNIT[measure]}" for horizon, measure in parsed),
        f"ADE@3s minus\n{comparison.main.name}",
        "failed",
        "n",
    ]
    columns = [_column(comparison.rows, "strict", h, m) for h, m in strict]
    columns += [_parsed(comparison.rows, h, m) for h, m in parsed]
    columns.append([_difference(row, comparison.main) for row in comparison.rows])
    rows = []
    for k, row in enumerate(comparison.rows):
        failed, n = row.entry["parse_failures"], row.entry["n"]
        share = f"{100 * failed / n:.1f} %" if failed else ""
        name = Cell(text=row.name, below=row.entry.get("about") or "")
        rows.append([name, *(column[k] for column in columns), Cell(text=str(failed), below=share), Cell(text=str(n))])
    return Table(heads=heads, rows=rows, kinds=[_css(row, comparison) for row in comparison.rows])


def every_measure(row: Row) -> Table:
    """All horizons and measures of one predictions file, strict and parsed."""
    lines = []
    for counted in ("strict", "parsed"):
        for horizon in HORIZONS:
            cells = [_cell(row.entry[counted][horizon][measure], measure) for measure in SCALE]
            lines.append([Cell(text=f"{counted}, {horizon}"), *cells])
    return Table(heads=["", *(f"{measure}\n{UNIT[measure]}" for measure in SCALE)], rows=lines)


def by_group(comparison: Comparison, title: str, measure: str = "ADE", horizon: str = "3s") -> Table:
    """One line per scenario type or binding rule, one column per predictions file: strict, with intervals."""
    shown = [row for row in comparison.rows if row.kind != "oracle"]
    lines = []
    for group, facts in comparison.main.entry[title].items():
        groups = [row.entry[title][group] for row in shown]
        cells = [_cell(entry["strict"][horizon][measure], measure) for entry in groups]
        best = _best([entry["strict"][horizon][measure]["value"] for entry in groups], measure)
        marked = [Cell(text=c.text, below=c.below, best=k in best) for k, c in enumerate(cells)]
        count = Cell(
            text=str(facts["n"]), below=f"{facts['scenarios']} scenario{'s' if facts['scenarios'] != 1 else ''}"
        )
        lines.append([Cell(text=group), count, *marked])
    return Table(heads=["", "n", *(row.name for row in shown)], rows=lines)


def reasoning(comparison: Comparison) -> Table | None:
    """What the texts are worth, with the label's own texts as the floor; None where nobody said anything."""
    lines = [(row.name, row.entry["reasoning"]) for row in comparison.rows if row.entry.get("reasoning")]
    lines = [(name, found) for name, found in lines if found["said"]]
    if not lines:
        return None
    lines.append(("the labels' own texts", comparison.runs[0].results["label_reasoning"]))
    rows = [
        [
            Cell(text=name),
            Cell(text=_percent(found["said_share"]), below=f"{found['said']} answers"),
            Cell(text=_percent(found["readable_share"]), below=f"{found['readable']} of {found['said']}"),
            Cell(text=_percent(found["replay_consistent_share"]), below=f"of {found['replayed']} replayed"),
            Cell(text=_metres(found["replay_error_median_m"]), below=f"mean {_metres(found['replay_error_mean_m'])}"),
            Cell(text=_metres(found["replay_error_max_m"])),
            Cell(
                text=_percent(found["says_stop_drives_on_share"]),
                below=f"{found['says_stop_drives_on']} of {found['says_stop']}",
            ),
            Cell(
                text=_percent(found["names_binding_rule_share"]),
                below=f"{found['names_binding_rule']} of {found['readable']}",
            ),
        ]
        for name, found in lines
    ]
    heads = [
        "",
        "gives a reason",
        "readable",
        "replay-consistent",
        "replay error,\nmedian m",
        "largest\nm",
        "says stop,\ndrives on",
        "names the\nbinding rule",
    ]
    return Table(heads=heads, rows=rows)


def _column(rows: Sequence[Row], counted: str, horizon: str, measure: str) -> list[Cell]:
    found = [row.entry[counted][horizon][measure] for row in rows]
    rivals = [None if row.kind == "oracle" else cell["value"] for row, cell in zip(rows, found, strict=True)]
    best = _best(rivals, measure)
    cells = [_cell(cell, measure) for cell in found]
    return [Cell(text=c.text, below=c.below, best=k in best) for k, c in enumerate(cells)]


def _parsed(rows: Sequence[Row], horizon: str, measure: str) -> list[Cell]:
    """No best one: each row is measured on samples of its own choice."""
    return [_cell(row.entry["parsed"][horizon][measure], measure, interval=False) for row in rows]


def _difference(row: Row, main: Row) -> Cell:
    """Paired with the main row where one evaluation measured both, else a dash."""
    if row.run is not main.run or main.key != main.run.results["first"] or "difference_to_first" not in row.entry:
        return Cell(text="–")
    found = row.entry["difference_to_first"]["3s"]["ADE"]
    below = "" if found["low"] is None else f"[{found['low']:+.2f}, {found['high']:+.2f}]"
    return Cell(text=f"{found['value']:+.2f}", below=below)


def _best(values: Sequence[float | None], measure: str) -> set[int]:
    """Indices of the least value as printed; none where all are the same or there is only one."""
    printed = [None if v is None else round(SCALE[measure] * v, DIGITS[measure]) for v in values]
    known = [v for v in printed if v is not None]
    if len(known) < 2 or min(known) == max(known):
        return set()
    return {k for k, v in enumerate(printed) if v == min(known)}


def _cell(found: Mapping[str, Any], measure: str, *, interval: bool = True) -> Cell:
    if found["value"] is None:
        return Cell(text="–")
    scale, digits = SCALE[measure], DIGITS[measure]
    text = f"{scale * found['value']:.{digits}f}"
    if not interval or found["low"] is None:
        return Cell(text=text)
    return Cell(text=text, below=f"[{scale * found['low']:.{digits}f}, {scale * found['high']:.{digits}f}]")


def _css(row: Row, comparison: Comparison) -> str:
    if row is comparison.main:
        return "main"
    return "" if row.kind == "model" else "rest"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _metres(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
