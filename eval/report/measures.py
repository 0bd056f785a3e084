"""The report's tables of faithfulness, of paired tests and of plans: what else an evaluation measured, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.faithfulness.causal.definitions import DEFINITIONS
from eval.faithfulness.observed.measures import IN_METRES, LOWER_IS_BETTER, MEASURES
from eval.faithfulness.planted.axes import AXES
from eval.report.runs import Comparison, Row
from eval.report.table import Cell, Table

SCORES = ("PDMS", "EPDMS")  # what the terms add up to: first
LABELS = "the labels'\nown texts"
METRES = frozenset({*IN_METRES, *(name for name, d in DEFINITIONS.items() if d.unit == "m")})
RATIOS = frozenset(name for name, d in DEFINITIONS.items() if d.unit not in ("m", "share"))
PAIRED_UNITS = {"3s/ADE": ("ADE@3s [m]", 1.0, 3), "3s/MR": ("miss rate at 3 s [%]", 100.0, 1)}
VERDICTS = {
    "separates": "yes",
    "separates means": "of means",
    "does not separate": "NO",
    "not measured": "not measured",
}


def observed(comparison: Comparison) -> Table | None:
    """One line per measure, one column per predictions file, the labels' own texts last: the floor, or the ceiling."""
    rows = [row for row in comparison.rows if row.entry.get("observed")]
    floor = next((run.results["label_observed"] for run in comparison.runs if run.results.get("label_observed")), None)
    if not rows:
        return None
    columns = [row.entry["observed"] for row in rows] + ([floor] if floor else [])
    return _measures(
        list(MEASURES), columns, [*(row.name for row in rows), *([LABELS] if floor else [])], len(rows), _way
    )


def causal(comparison: Comparison, *, judged: bool) -> Table | None:
    """The same of what edits and forced texts do. judged: the measures of which one way is better, else those to be read beside
    them."""
    rows = [row for row in comparison.rows if row.entry.get("causal")]
    if not rows:
        return None
    columns = [row.entry["causal"] for row in rows]
    names = [name for name, d in DEFINITIONS.items() if (d.better != "neither") == judged]
    return _measures(names, columns, [row.name for row in rows], len(rows), lambda m: DEFINITIONS[m].better)


def validation(found: Mapping[str, Any]) -> Table:
    """One line per measure that claims anything: its value for each planted predictor, how surely it tells the unfaithful ones of
    its claim from the faithful one at worst, and the verdict."""
    predictors = [name for name in found["predictors"] if "@" not in name]
    lines = []
    for metric in found["metrics"]:
        if metric["verdict"] == "no claim":
            continue
        must = metric["must_tell"]
        aurocs = [metric["auroc"][name] for name in must if metric["auroc"].get(name, {}).get("value") is not None]
        worst = min(aurocs, key=lambda a: a["value"], default=None)
        powers = [metric["power"][name] for name in must if metric["power"].get(name) is not None]
        cells = [
            Cell(text=f"{_value(metric['name'], metric['values'].get(name))}{' *' if name in must else ''}")
            for name in predictors
        ]
        lines.append(
            [
                Cell(text=metric["name"], below="; ".join(AXES.get(axis, axis) for axis in metric["axes"])),
                *cells,
                Cell(text="–") if worst is None else Cell(text=f"{worst['value']:.2f}", below=_range(worst, "{:.2f}")),
                Cell(text=f"{min(powers):.2f}" if powers else "–"),
                Cell(
                    text=VERDICTS.get(metric["verdict"], metric["verdict"]),
                    below=f"not {', '.join(metric['fails'])}" if metric["fails"] else "",
                    best=metric["verdict"] == "separates",
                ),
            ]
        )
    return Table(heads=["measure", *predictors, "least\nAUROC", "least\npower", "tells\nthem apart"], rows=lines)


def paired(comparison: Comparison, measure: str, wanted: Callable[[str, str], bool]) -> Table | None:
    """One line per wanted pair of files measured on the same samples: a minus b, interval, p and p corrected for all pairs."""
    title, scale, digits = PAIRED_UNITS.get(measure, (measure, 1.0, 3))
    lines = []
    for run in comparison.runs:
        for test in run.results.get("paired") or ():
            if test["measure"] != measure or test["difference"] is None or not wanted(test["a"], test["b"]):
                continue
            low, high = test["low"], test["high"]
            clear = (
                low is not None and (low > 0.0 or high < 0.0) and test["p_holm"] is not None and test["p_holm"] < 0.05
            )
            shown = f"{scale * test['difference']:+.{digits}f}"
            interval = "" if low is None else f"[{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
            lines.append(
                [
                    Cell(text=f"{test['a']} minus {test['b']}"),
                    Cell(text=shown, below=interval, best=clear),
                    Cell(text=_p(test["p"])),
                    Cell(text=_p(test["p_holm"])),
                ]
            )
    return Table(heads=["", title, "p", "p, Holm"], rows=lines) if lines else None


def plans(comparison: Comparison) -> Table | None:
    """NAVSIM's terms of every file's plans."""
    rows = [row for row in comparison.rows if row.entry.get("pdms")]
    if not rows:
        return None
    found = [row.entry["pdms"] for row in rows]
    terms = sorted(dict.fromkeys(term for one in found for term in one), key=lambda term: term not in SCORES)
    best = {
        term: _best([_known(row, one, term) for row, one in zip(rows, found, strict=True)], "higher", 3)
        for term in terms
    }
    lines = [
        [Cell(text=row.name), *(_cell(one.get(term), "{:.3f}", 1.0, k in best[term]) for term in terms)]
        for k, (row, one) in enumerate(zip(rows, found, strict=True))
    ]
    return Table(heads=["", *terms], rows=lines)


def rows_read(comparison: Comparison) -> Table | None:
    """What each file held besides one readable row per sample; None where that is all of them."""
    found = {row.name: row.entry.get("rows") or {} for row in comparison.rows if row.entry.get("file")}
    outcomes = list(dict.fromkeys(name for counts in found.values() for name, count in counts.items() if count))
    if not set(outcomes) - {"given", "answered"}:
        return None
    lines = [[Cell(text=name), *(Cell(text=str(counts.get(o, 0))) for o in outcomes)] for name, counts in found.items()]
    return Table(heads=["", *outcomes], rows=lines)


def _measures(
    names: Sequence[str],
    columns: Sequence[Mapping[str, Any]],
    heads: Sequence[str],
    rivals: int,
    better: Callable[[str], str],
) -> Table:
    lines = []
    for name in names:
        cells = [column.get(name) for column in columns]
        if not any(cell and cell["value"] is not None for cell in cells):
            continue
        digits = 1 if name not in METRES | RATIOS else 3
        scale = 100.0 if name not in METRES | RATIOS else 1.0
        values = [None if not c or c["value"] is None else scale * c["value"] for c in cells[:rivals]]
        best = _best(values, better(name), digits)
        unit = "m" if name in METRES else "" if name in RATIOS else "%"
        shown = [_cell(c, f"{{:.{digits}f}}", scale, k in best, count=True) for k, c in enumerate(cells)]
        unit = "" if name.endswith(f"_{unit}") else unit
        lines.append([Cell(text=f"{name} {unit}".strip(), below=_wanted(better(name))), *shown])
    return Table(heads=["", *heads], rows=lines)


def _way(measure: str) -> str:
    return "lower" if measure in LOWER_IS_BETTER else "higher"


def _wanted(better: str) -> str:
    return {"lower": "lower is better", "one": "1 is best"}.get(better, "")


def _known(row: Row, found: Mapping[str, Any], term: str) -> float | None:
    cell = found.get(term)
    return None if cell is None or row.kind == "oracle" else cell["value"]


def _best(values: Sequence[float | None], better: str, digits: int) -> set[int]:
    """Indices of the best as printed; none where all are the same, or no way is better."""
    printed = [None if v is None else round(v, digits) for v in values]
    known = [v for v in printed if v is not None]
    if len(known) < 2 or min(known) == max(known) or better == "neither":
        return set()
    aim = {"higher": max(known), "lower": min(known)}.get(better, min(known, key=lambda v: abs(v - 1.0)))
    return {k for k, v in enumerate(printed) if v == aim}


def _cell(found: Mapping[str, Any] | None, form: str, scale: float, best: bool, *, count: bool = False) -> Cell:
    if not found or found["value"] is None:
        return Cell(text="–")
    below = _range(found, form, scale)
    below = f"{below} n {found['n']}".strip() if count and found.get("n") is not None else below
    return Cell(text=form.format(scale * found["value"]), below=below, best=best)


def _range(found: Mapping[str, Any], form: str, scale: float = 1.0) -> str:
    low, high = found.get("low"), found.get("high")
    return "" if low is None or high is None else f"[{form.format(scale * low)}, {form.format(scale * high)}]"


def _value(measure: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if measure in METRES | RATIOS else f"{100 * value:.0f} %"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
