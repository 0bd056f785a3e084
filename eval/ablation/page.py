"""An ablation's results -> ablation.html (one file, nothing from elsewhere), ablation.md and ablation.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.ablation.words import ADE, MR, against_none, best_cells, seeds_text, verdict
from eval.open_loop.entries import text_range
from eval.report.block import Block, Named
from eval.report.curves import colour, curves, side_by_side
from eval.report.figures import Series
from eval.report.page import clean, page
from eval.report.table import Cell, Table
from nsdrive import __version__
from nsdrive.counted import counted
from nsdrive.dataset import write_atomically

JSON, MARKDOWN, HTML = "ablation.json", "ablation.md", "ablation.html"
INTERVALS = (
    "Mean over the seeds. Beneath: 95 % interval over scenarios for these very runs, then over scenarios and seeds both. The "
    "last but one column divides by the cell without reasoning, on the same samples, over scenarios and seeds both: below 1 "
    "reasoning helps, and only where the interval leaves out 1 is it said so. "
    "Green: the least ADE@3s and what its interval over scenarios and seeds does not tell apart from it; nothing where that is all."
)
CURVES = (
    "A part of the validation split, answered while training; the line is the mean over the seeds, the band from the least to "
    "the largest seed. Equal samples are not equal work: a detailed answer has several times the tokens."
)


def write_results(results: Mapping[str, Any], out: Path) -> Path:
    """Write the three files into `out`; returns the page's path."""
    blocks = [_cells(results), _ratios(results), _growth(results), _runs(results)]
    body = "\n".join(
        [
            "<h1>Does reasoning in front of the waypoints help?</h1>",
            f'<p class="lead">{clean(results["about"])}</p>',
            '<section id="verdict"><h2>Verdict</h2><ul>'
            + "".join(f"<li>{clean(sentence)}</li>" for sentence in verdict(results))
            + "</ul></section>",
            *(block.html() for block in blocks),
            f"<h2>Settings</h2><pre>{clean(json.dumps(results['config'], indent=2, ensure_ascii=False))}</pre>",
            f"<footer>nsdrive {clean(__version__)} · this file loads nothing and runs nothing</footer>",
        ]
    )
    contents = [("verdict", "Verdict"), *((block.anchor, block.link) for block in blocks)]
    lines = ["# Does reasoning in front of the waypoints help?", "", results["about"], ""]
    lines += [f"- {sentence}" for sentence in verdict(results)] + [""]
    lines += [line for block in blocks for line in block.markdown()]
    write_atomically(out / JSON, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / MARKDOWN, "\n".join(lines) + "\n")
    write_atomically(out / HTML, page("nsdrive: ablation of the reasoning", body, contents=contents))
    return out / HTML


def _cells(results: Mapping[str, Any]) -> Block:
    heads = [
        "cameras-level, answer",
        "ADE@3s\nm",
        "of each seed",
        "miss rate@3s\n%",
        "of each seed",
        "ADE / none",
        "failed",
    ]
    best = best_cells(results)
    rows, kinds = [], []
    for cell, answers in results["cells"].items():
        for answer, found in answers.items():
            rows.append(
                [
                    Cell(text=f"{cell}, {answer}"),
                    _number(found[ADE], best=(cell, answer) in best),
                    Cell(text=seeds_text(found[ADE])),
                    _number(found[MR], scale=100.0, digits=1),
                    Cell(text=seeds_text(found[MR], scale=100.0, digits=1)),
                    Cell(text=against_none(results, cell, answer) or "–"),
                    Cell(text=str(sum(found["failed"]))),
                ]
            )
            kinds.append("rest" if "." in answer else "")
    for name, found in results["baselines"].items():
        ade, mr = text_range(found[ADE]), text_range(found[MR], scale=100.0, digits=1)
        (ade, below), (mr, mr_below) = (text.partition(" ")[::2] for text in (ade, mr))
        shown = [Cell(text=ade, below=below), Cell(text=""), Cell(text=mr, below=mr_below), *[Cell(text="")] * 3]
        rows.append([Cell(text=f"{name}, without images"), *shown])
        kinds.append("rest")
    data = results["dataset"]
    splits = ", ".join(f"{name} {n}" for name, n in (data["all_splits"] or {}).items())
    counts = f"{counted(data['samples'], 'sample')} of {counted(data['scenarios'], 'held-out scenario')}"
    note = f"{counts} (samples: {splits}). {INTERVALS}"
    return Block(
        anchor="cells",
        title="The table",
        link="Table",
        note=note,
        tables=[Named(table=Table(heads=heads, rows=rows, kinds=kinds))],
    )


def _number(found: Mapping[str, Any], *, scale: float = 1.0, digits: int = 2, best: bool = False) -> Cell:
    def between(low: str, high: str) -> str:
        if found[low] is None:
            return ""
        return f"[{scale * found[low]:.{digits}f}, {scale * found[high]:.{digits}f}]"

    below = " ".join(filter(None, (between("low", "high"), between("low_with_seeds", "high_with_seeds"))))
    return Cell(text=f"{scale * found['value']:.{digits}f}", below=below, best=best)


def _ratios(results: Mapping[str, Any]) -> Block:
    kinds = {
        "reasoning": "Reasoning against none",
        "variant": "Trained otherwise against the same cell",
        "cameras": "Eight cameras against three",
        "control black": "Images blacked out against seen",
        "control oracle_text": "The label's reasoning put into its mouth against its own",
    }
    tables = []
    for kind in dict.fromkeys(found["kind"] for found in results["ratios"]):
        pairs: dict[tuple[str, str], dict[str, Any]] = {}
        for found in results["ratios"]:
            if found["kind"] == kind:
                pairs.setdefault((found["above"], found["below"]), {})[found["measure"]] = found
        rows = [
            [Cell(text=f"{above} : {below}"), *(Cell(text=text_range(of[measure])) for measure in (ADE, MR))]
            for (above, below), of in pairs.items()
        ]
        table = Table(heads=["", "ADE@3s, ratio", "miss rate@3s, ratio"], rows=rows)
        tables.append(Named(table=table, caption=kinds.get(kind, kind), folded=kind not in ("reasoning", "variant")))
    note = "Ratios on the same samples, 95 % interval over scenarios and seeds both."
    return Block(anchor="ratios", title="What is divided by what", link="Ratios", note=note, tables=tables)


def _growth(results: Mapping[str, Any]) -> Block:
    figures = []
    for what in dict.fromkeys(what for of_cell in results["curves"].values() for what in of_cell):
        for rig in results["config"]["rigs"]:
            own = {variant["name"]: variant["rig"] for variant in results["config"]["variants"]}
            cells = [
                cell
                for cell, found in results["curves"].items()
                if what in found and own.get(cell, cell.partition("-")[0]) == rig
            ]
            for key, words, unit, scale in (
                ("ADE@3s", "ADE@3s", "m", 1.0),
                ("miss_rate@3s", "Miss rate@3s", "%", 100.0),
            ):
                series = [
                    _line(cell, results["curves"][cell][what], key, scale, colour(k)) for k, cell in enumerate(cells)
                ]
                figures.append(
                    curves(
                        series,
                        title=f"{words}, {rig} cameras, {what}",
                        x_label="samples seen",
                        y_label=f"{words} [{unit}]",
                        digits=2 if unit == "m" else 1,
                    )
                )
    return Block(
        anchor="curves", title="Over the samples seen", link="Curves", note=CURVES, figure=side_by_side(figures)
    )


def _line(cell: str, points: list[Mapping[str, Any]], key: str, scale: float, css: str) -> Series:
    found = [(point["samples_seen"], [scale * v for v in point[key] if v is not None]) for point in points]
    found = [(seen, values) for seen, values in found if values]
    band = [min(values) for _, values in found], [max(values) for _, values in found]
    several = any(len(values) > 1 for _, values in found)
    return Series(
        name=cell,
        css=css,
        x=[float(seen) for seen, _ in found],
        y=[sum(values) / len(values) for _, values in found],
        band=band if several else None,
    )


def _runs(results: Mapping[str, Any]) -> Block:
    counted = ("parameters", "steps", "samples seen", "answer tokens")
    heads = ["run", *counted, "first loss", "last loss", "training s", "in all s", "of cores s"]
    rows = []
    for name, run in results["runs"].items():
        numbers = [run[key] for key in ("parameters", "steps", "samples_seen", "answer_tokens")]
        losses = [run[key] for key in ("first_loss", "final_loss")]
        spent = results["spent"].get(name, {})
        seconds = [run["seconds"], spent.get("seconds"), spent.get("cpu_seconds")]
        rows.append(
            [
                Cell(text=f"{name} ({run['device']})"),
                *(Cell(text="–" if value is None else f"{value:,}".replace(",", " ")) for value in numbers),
                *(Cell(text="–" if value is None else f"{value:.3f}") for value in losses),
                *(Cell(text="–" if value is None else f"{value:.0f}") for value in seconds),
            ]
        )
    note = f"{work(results)} In all: training and every answer of the run. Of cores: the time that processors worked for it."
    return Block(
        anchor="runs", title="The runs", link="Runs", note=note, tables=[Named(table=Table(heads=heads, rows=rows))]
    )


def work(results: Mapping[str, Any]) -> str:
    """What it all took, in a sentence."""
    spent = results["spent"]
    if not spent:
        return ""
    cores = sum(one["cpu_seconds"] for one in spent.values())
    first = sum(one["cpu_seconds"] for name, one in spent.items() if name.startswith("data-"))
    return f"{cores / 60:.1f} minutes of processor time in all, {first / 60:.1f} of them for the data."
