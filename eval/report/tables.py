"""The report's tables of predictions: headline, every measure, by group, the leaderboard, and the paper's own table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report.runs import Comparison, Row
from eval.report.table import Cell, Table
from nsdrive.vla.displacement import HORIZONS

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


def leaderboard(comparison: Comparison) -> Table:
    """Every file of every run on the split, the best strict ADE@3s first, and what else a reader wants of it at one look.

    "2=" instead of "2.": the paired test does not tell it from the row above (p_holm of ADE@3s, 0.05), where one run has both.
    """
    rows = sorted(comparison.rows, key=lambda row: (row.kind == "oracle", _ade(row), row.name))
    extra = [(words, kind, name) for words, kind, name in BOARD if any(_measure(r, kind, name) for r in rows)]
    heads = [
        "",
        "ADE@3s\nm",
        "miss rate\n%",
        "parsed\nADE@3s m",
        *(words for words, _, _ in extra),
        "failed\n%",
        "what it is",
    ]
    lines = []
    for place, row in enumerate(rows, start=1):
        strict, parsed = row.entry["strict"]["3s"], row.entry["parsed"]["3s"]
        tied = place > 1 and _tied(row, rows[place - 2])
        lines.append(
            [
                Cell(
                    text=f"{place}{'=' if tied else '.'} {row.name}",
                    below="not told from the row above" if tied else "",
                ),
                _cell(strict["ADE"], "ADE"),
                _cell(strict["MR"], "MR"),
                _cell(parsed["ADE"], "ADE", interval=False),
                *(_shown(_measure(row, kind, name)) for _, kind, name in extra),
                Cell(text=f"{100.0 * row.entry['parse_failures'] / row.entry['n']:.1f}"),
                Cell(text=KINDS[row.kind], below=row.entry.get("about") or "", words=True),
            ]
        )
    return Table(heads=heads, rows=lines, kinds=[_css(row, comparison) for row in rows])


def paper_table(comparisons: Sequence[Comparison]) -> Table | None:
    """The paper's table: cameras x reasoning, each of our models on the dataset of that kind beside the published numbers.

    What a dataset has is read from its samples; one of mixed kinds has no place here. None where no model is on any of them. The
    published numbers are of another, unpublished benchmark: for orientation.
    """
    found: dict[tuple[str, str], list[tuple[Row, Comparison]]] = {}
    for comparison in comparisons:
        levels, cameras = comparison.facts["trace_levels"], comparison.facts["cameras"]
        if len(levels) == 1 and len(cameras) == 1:
            models = [row for row in comparison.rows if row.kind == "model"]
            found.setdefault((next(iter(cameras)), next(iter(levels))), []).extend((row, comparison) for row in models)
    if not any(found.values()):
        return None
    lines = []
    known = [(cameras, level) for cameras in ("3", "8") for level in LEVELS]
    for kind in [*known, *sorted(set(found) - set(known))]:
        published = [Cell(text=text) for text in PUBLISHED.get(kind, ("–", "–"))]
        words = f"{kind[0]} cameras, {kind[1]}"
        if not found.get(kind):
            lines.append([Cell(text=words), *[Cell(text="–")] * 6, *published])
        for row, comparison in found.get(kind, []):
            lines.append([Cell(text=f"{words}: {row.name}"), *_of_model(row, comparison), *published])
    heads = ["", "ADE@3s\nm", "miss rate\n%", "parsed\nADE@3s m", "parsed\nmiss rate %", "best blind\nADE@3s m", "n"]
    return Table(heads=[*heads, "published\nADE@3s m", "published\nmiss rate %"], rows=lines)


# arXiv 2606.23938, abstract: (cameras, reasoning) -> ADE@3s m, miss rate %, of its own benchmark, by its own (parsed) count
PUBLISHED = {
    ("3", "none"): ("0.47", "8.30"),
    ("3", "detailed"): ("0.26", "6.40"),
    ("8", "none"): ("0.54", "10.13"),
    ("8", "detailed"): ("0.26", "5.99"),
}
LEVELS = ("none", "brief", "detailed")
BOARD = (  # what a leaderboard shows beside the errors, where it was measured: head, part of the entry, name in it
    ("true\nclaims", "observed", "claims_true"),
    ("text and motion\nagree", "observed", "manoeuvre_consistency"),
    ("forced\nslope", "causal", "forced_slope"),
    ("EPDMS", "pdms", "EPDMS"),
)
KINDS = {"model": "model", "control": "control", "baseline": "sees no image", "oracle": "the label itself"}


def _of_model(row: Row, comparison: Comparison) -> list[Cell]:
    strict, parsed, blind = row.entry["strict"]["3s"], row.entry["parsed"]["3s"], comparison.best_blind
    return [
        _cell(strict["ADE"], "ADE"),
        _cell(strict["MR"], "MR"),
        _cell(parsed["ADE"], "ADE", interval=False),
        _cell(parsed["MR"], "MR", interval=False),
        Cell(text="–") if blind is None else _cell(blind.entry["strict"]["3s"]["ADE"], "ADE", interval=False),
        Cell(text=str(row.entry["n"])),
    ]


def _ade(row: Row) -> float:
    value = row.entry["strict"]["3s"]["ADE"]["value"]
    return float("inf") if value is None else float(value)


def _tied(row: Row, above: Row) -> bool:
    """A paired test of both in one run did not tell them apart."""
    if row.run is not above.run:
        return False
    pair = {row.key, above.key}
    tests = [t for t in row.run.results["paired"] if t["measure"] == "3s/ADE" and {t["a"], t["b"]} == pair]
    return any(test["p_holm"] is not None and test["p_holm"] >= 0.05 for test in tests)


def _measure(row: Row, kind: str, name: str) -> Mapping[str, Any] | None:
    """None where it was not measured; of one who never gives a reason, what its text is worth is no question."""
    if kind == "observed" and row.entry.get("texts") == 0:
        return None
    found = (row.entry.get(kind) or {}).get(name)
    return found if found and found["value"] is not None else None


def _shown(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell(text="–")
    below = "" if found["low"] is None else f"[{found['low']:.2f}, {found['high']:.2f}]"
    return Cell(text=f"{found['value']:.2f}", below=below)


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
