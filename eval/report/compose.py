"""Evaluation folders -> report.html (one file, no script, nothing from elsewhere) and report.md: what a reviewer opens.

It leads with the strict numbers and their intervals, sets every model beside baselines that see no image, says when the
sample is small, and shows the best, the median and the worst answer, with the cameras and both texts. No dates: the same
input gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from eval.closed_loop.tables import ClosedLoopRun, closed_loop_html, closed_loop_markdown
from eval.evaluate import DEFINITIONS, SCORE_VERSION
from eval.manoeuvres.tables import has_manoeuvres, manoeuvres_html, manoeuvres_markdown
from eval.report import tables
from eval.report.cases import Painter, case_html, choose
from eval.report.figures import Series, legend, line_chart
from eval.report.page import clean, page
from eval.report.runs import Comparison, load_runs
from eval.report.table import Cell, Table, markdown_text
from nsdrive import __version__
from nsdrive.dataset import Dataset, write_atomically
from nsdrive.vla.prompt import WAYPOINT_INTERVAL_S

REPORT_HTML, REPORT_MD = "report.html", "report.md"
FEW_SCENARIOS = 30  # chosen by us: below it a percentile interval is itself a rough guess
SPREAD_POINTS = 200  # chosen by us: finer than a screen shows
LINES_SHOWN = 8  # the page has colours for so many

# arXiv 2606.23938, abstract and main table: cameras, reasoning -> ADE@3s m, miss rate %
PUBLISHED = (
    ("3", "none", "0.47", "8.30"),
    ("3", "detailed", "0.26", "6.40"),
    ("8", "none", "0.54", "10.13"),
    ("8", "detailed", "0.26", "5.99"),
)


def report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    birds_eye: Callable[[Dataset], Painter] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `out`/report.html and report.md; returns the path of the HTML file. runs: folders of `nsdrive evaluate` and of
    `nsdrive simulate`, in any mix.

    birds_eye: dataset -> painter, a function (sample, {"prediction": waypoints_ego_m}) -> (H, W, 3) RGB of the scene from
    above; it may raise ValueError where a scene cannot be had again. Without it both trajectories are drawn alone.
    Raises FileNotFoundError or ValueError where a folder holds no results, or `out` a report.
    """
    out = Path(out)
    if (out / REPORT_HTML).exists() and not overwrite:
        raise ValueError(f"{out} has a report. Replace it with --overwrite, or choose another --out")
    comparisons, drives = load_runs(runs)
    manoeuvres = [drive for drive in drives if has_manoeuvres(drive)]
    loops = [drive for drive in drives if not has_manoeuvres(drive)]
    body = "\n".join(
        [
            "<h1>Driving evaluation</h1>",
            '<p class="lead">Predicted waypoints against the planner\'s own, and predicted reasons against the waypoints '
            "that they explain.</p>",
            *(_comparison_html(comparison, birds_eye) for comparison in comparisons),
            *([closed_loop_html(loops)] if loops else []),
            *([manoeuvres_html(manoeuvres)] if manoeuvres else []),
            *([_published_html(), _definitions_html()] if comparisons else []),
            f"<h2>To get this page again</h2><pre>{clean(_commands(runs, comparisons))}</pre>",
            f"<footer>nsdrive {clean(__version__)} · score version {SCORE_VERSION} · this file holds no scripts and loads "
            "nothing</footer>",
        ]
    )
    write_atomically(out / REPORT_MD, _markdown(runs, comparisons, drives))
    write_atomically(out / REPORT_HTML, page("nsdrive: driving evaluation", body))
    return out / REPORT_HTML


# ---- one dataset ----------------------------------------------------------------------------------------------------


def _comparison_html(comparison: Comparison, birds_eye: Callable[[Dataset], Painter] | None) -> str:
    facts, main = comparison.facts, comparison.main
    good_bad, verdict = _verdict(comparison)
    tables_of_groups = [
        f"<h2>By {words}</h2><p class=note>{note} Strict ADE@3s in metres, 95&nbsp;% interval beneath, best in bold.</p>"
        + tables.by_group(comparison, title).html()
        + "<details><summary>Miss rate at 3 s, %</summary>"
        + tables.by_group(comparison, title, measure="MR").html()
        + "</details>"
        for title, words, note in (
            (
                "by_binding_rule",
                "binding rule",
                "What set the planner's command at the anchor: the cause to be understood.",
            ),
            ("by_scenario_type", "scenario type", "The source's own tag of the scenario."),
        )
    ]
    reasons = tables.reasoning(comparison)
    return "\n".join(
        [
            f"<h2>{clean(facts['name'])}, split {clean(facts['split'])}</h2>",
            f'<p class="verdict {good_bad}">{clean(verdict)}</p>',
            _tiles(comparison),
            *(f'<div class="warn">{clean(note)}</div>' for note in _notes(comparison)),
            "<h2>Side by side</h2>",
            '<p class="note">Strict: every sample counts, a failed or missing answer as 10&nbsp;m off at every waypoint. '
            "Beneath each number its 95&nbsp;% interval over scenarios. Parsed: complete answers only. Best strict one in "
            "bold, the oracle aside. Grey names see no image.</p>",
            tables.headline(comparison).html(),
            *(
                f"<details><summary>Every measure of {clean(row.name)}</summary>{tables.every_measure(row).html()}</details>"
                for row in comparison.rows
                if row.kind == "model"
            ),
            _charts(comparison),
            *tables_of_groups,
            *([_reasoning_html(reasons)] if reasons else []),
            f"<h2>Best, median and worst of {clean(main.name)}</h2>",
            *_cases_html(comparison, birds_eye),
            "<h2>The dataset</h2>",
            _facts_html(comparison),
        ]
    )


def _verdict(comparison: Comparison) -> tuple[str, str]:
    """A CSS class and one sentence: does the main model beat the best baseline that sees nothing?"""
    main, blind = comparison.main, comparison.best_blind
    ade = main.entry["strict"]["3s"]["ADE"]
    text = f"{main.name}: ADE@3s {_with_interval(ade)} m on {main.entry['n']} samples of {main.entry['scenarios']} scenarios."
    if blind is None or main.kind != "model":
        return "", text
    own = blind.run is main.run and main.key == main.run.results["first"]
    difference = blind.entry["difference_to_first"]["3s"]["ADE"] if own else None
    text += (
        f" The best baseline without images, {blind.name}, has {_with_interval(blind.entry['strict']['3s']['ADE'])} m:"
    )
    if difference is None or difference["low"] is None:
        return "", f"{text} compare the intervals."
    low, gain, high = difference["low"], difference["value"], difference["high"]
    if low > 0.0:
        return "good", f"{text} the model is better, by {gain:.2f} m [{low:.2f}, {high:.2f}] (paired)."
    if high < 0.0:
        worse = f"the model is worse, by {-gain:.2f} m [{-high:.2f}, {-low:.2f}] (paired)"
        return "bad", f"{text} {worse}. It does not yet drive better than one who sees nothing."
    apart = f"baseline minus model {gain:+.2f} m [{low:+.2f}, {high:+.2f}], paired"
    return "", f"{text} the two cannot be told apart here ({apart})."


def _tiles(comparison: Comparison) -> str:
    main = comparison.main
    strict, parsed = main.entry["strict"]["3s"], main.entry["parsed"]["3s"]
    failed, n = main.entry["parse_failures"], main.entry["n"]
    parsed_ade = "–" if parsed["ADE"]["value"] is None else f"{parsed['ADE']['value']:.2f} m"
    tiles = [
        (f"{strict['ADE']['value']:.2f} m", f"ADE@3s, strict {_interval(strict['ADE'])}"),
        (
            f"{100 * strict['MR']['value']:.1f} %",
            f"miss rate at 3 s, strict {_interval(strict['MR'], scale=100.0, digits=1)}",
        ),
        (parsed_ade, f"ADE@3s of the {n - failed} complete answers"),
        (f"{failed} of {n}", "answers failed or missing"),
    ]
    shown = "".join(f"<div class=tile><b>{clean(big)}</b><span>{clean(small)}</span></div>" for big, small in tiles)
    return f'<div class="tiles">{shown}</div>'


def _notes(comparison: Comparison) -> list[str]:
    """What a reader must know before believing a number."""
    facts, notes = comparison.facts, []
    if facts["scenarios"] < FEW_SCENARIOS:
        notes.append(
            f"Small sample: {facts['samples']} samples of {facts['scenarios']} scenarios. Intervals are wide and themselves "
            "rough; use this page to see that everything works, not to rank models."
        )
    no_miss = [
        row.name for row in comparison.rows if row.entry["strict"]["3s"]["MR"]["value"] == 0.0 and row.kind != "oracle"
    ]
    if no_miss:
        bound = min(100.0, 300.0 / facts["scenarios"])
        notes.append(
            f"No miss at 3 s: {', '.join(no_miss)}. A bootstrap cannot see what it never drew, so the interval [0, 0] is not "
            f"certainty: with {facts['scenarios']} scenarios a rate up to about {bound:.0f} % is compatible (rule of three)."
        )
    for run in comparison.runs:
        notes += run.results["warnings"]
    for row in comparison.rows:
        for reason, count in list(row.entry["failures"].items())[:3]:
            notes.append(f"{row.name}: {count} answers failed: {reason}")
    return notes


def _charts(comparison: Comparison) -> str:
    rows = [row for row in comparison.rows if row.kind != "oracle"][:LINES_SHOWN]
    errors, spread = [], []
    for k, row in enumerate(rows):
        dashed = row.kind != "model"
        curve = row.entry["displacement_m"]["strict"]
        x = [WAYPOINT_INTERVAL_S * (i + 1) for i in range(len(curve["value"]))]
        band = (curve["low"], curve["high"]) if k == 0 and curve["low"][0] is not None else None
        errors.append(Series(name=row.name, css=f"s{k}", x=x, y=curve["value"], band=band, dashed=dashed))
        values = sorted(r["3s/ADE"] for r in row.run.sample_rows(row.key))
        share = np.linspace(0.0, 100.0, min(len(values), SPREAD_POINTS - 1) + 1)
        shown = np.interp(share, 100.0 * (np.arange(len(values)) + 0.5) / len(values), values)
        spread.append(Series(name=row.name, css=f"s{k}", x=share.tolist(), y=shown.tolist(), dashed=dashed))
    growth = line_chart(errors, title="Error over the horizon", x_label="time ahead [s]", y_label="displacement [m]")
    sorted_ade = line_chart(spread, title="Sorted errors", x_label="share of samples [%]", y_label="ADE@3s [m]")
    return (
        '<h2>Errors</h2><div class="charts"><figure><figcaption>How the error grows: mean displacement, strict</figcaption>'
        f"{growth}</figure><figure><figcaption>How it is spread: ADE@3s of every sample, sorted</figcaption>{sorted_ade}"
        f"</figure></div>{legend(errors)}"
    )


def _reasoning_html(table: Table) -> str:
    return (
        "<h2>Do the reasons agree with the driving?</h2>"
        '<p class="note">A text is readable if the trace\'s parser accepts it. It is then replayed: the motion that it states '
        "against the answer's own waypoints at 3&nbsp;s; within 0.25&nbsp;m counts as consistent. &ldquo;Says stop, drives "
        "on&rdquo;: of the texts that end standing, those whose waypoints do not. No judge is needed. Only the last column "
        "looks at the label: whether the text names the rule that set the planner's command."
        f"</p>{table.html()}"
    )


def _cases_html(comparison: Comparison, birds_eye: Callable[[Dataset], Painter] | None) -> list[str]:
    main = comparison.main
    dataset, why = comparison.dataset()
    if dataset is None:
        return [f'<p class="note">Not shown: {clean(why)}</p>']
    if main.entry.get("file") is None:
        return ['<p class="note">Not shown: no predictions file was evaluated.</p>']
    try:
        cases = choose(main, comparison.facts["split"], dataset)
    except (ValueError, OSError) as error:
        return [f'<p class="note">Not shown: {clean(error)}</p>']
    painter = birds_eye(dataset) if birds_eye is not None and cases else None
    return [
        '<p class="note">By strict ADE@3s among complete answers; a failed answer too where there is one.</p>',
        *(case_html(case, dataset, painter) for case in cases),
    ]


def _facts_html(comparison: Comparison) -> str:
    facts = comparison.facts
    listed = {
        "name": facts["name"],
        "source": facts["source"],
        "licence": facts["licence"],
        "split": f"{facts['split']}: {facts['samples']} samples of {facts['scenarios']} scenarios",
        "all splits": _counts(facts["all_splits"] or {}),
        "planner": _counts(facts["planners"]),
        "scenario types": _counts(facts["scenario_types"]),
        "binding rules": _counts(facts["binding_rules"]),
        "manifest sha256": facts["manifest_sha256"],
        "made by": f"nsdrive {facts['made_by_nsdrive']}",
    }
    rows = "".join(f"<dt>{clean(k)}</dt><dd>{clean('–' if v is None else v)}</dd>" for k, v in listed.items())
    config = json.dumps(facts["config"], indent=2, sort_keys=True, ensure_ascii=False)
    return f"<dl>{rows}</dl><details><summary>Its configuration</summary><pre>{clean(config)}</pre></details>"


# ---- the rest of the page -------------------------------------------------------------------------------------------


def _published_html() -> str:
    rows = [[Cell(text=f"{c} cameras, reasoning {r}"), Cell(text=a), Cell(text=m)] for c, r, a, m in PUBLISHED]
    table = Table(heads=["", "ADE@3s m", "miss rate %"], rows=rows)
    return (
        "<h2>Published numbers</h2><details><summary>Published, on its own benchmark, not comparable with anything above"
        "</summary><p class=note>Neuro-Symbolic Drive (arXiv 2606.23938), Qwen3.5-4B. Its benchmark is not published, its "
        "script leaves out answers that cannot be read, and it gives no intervals and no blind baseline. For orientation "
        f"only.</p>{table.html()}</details>"
    )


def _definitions_html() -> str:
    rows = "".join(f"<dt>{clean(k)}</dt><dd>{clean(v)}</dd>" for k, v in DEFINITIONS.items())
    return f"<h2>What the numbers mean</h2><dl>{rows}</dl>"


def _commands(folders: Sequence[str | Path], comparisons: Sequence[Comparison]) -> str:
    lines = []
    for run in (run for comparison in comparisons for run in comparison.runs):
        entries = run.results["predictions"].values()
        files = [os.path.normpath(run.folder / entry["file"]) for entry in entries if entry.get("file")]
        facts = run.results["dataset"]
        data = os.path.normpath(run.folder / facts["folder"])
        where = ["--data", data, "--split", facts["split"], "--out", str(run.folder)]
        lines.append(shlex.join(["nsdrive", "evaluate", "--predictions", *files, *where]))
    return "\n".join([*lines, shlex.join(["nsdrive", "report", *(str(folder) for folder in folders), "--out", "DIR"])])


def _markdown(folders: Sequence[str | Path], comparisons: Sequence[Comparison], drives: Sequence[ClosedLoopRun]) -> str:
    parts = ["# Driving evaluation", ""]
    for comparison in comparisons:
        facts = comparison.facts
        parts += [f"## {markdown_text(facts['name'])}, split {facts['split']}", ""]
        parts += [markdown_text(_verdict(comparison)[1]), ""]
        parts += [f"- {markdown_text(note)}" for note in _notes(comparison)]
        parts += ["", "Strict, with 95 % intervals over scenarios; best in bold, the oracle aside.", ""]
        parts += [tables.headline(comparison).markdown(), ""]
        for title, words in (("by_binding_rule", "binding rule"), ("by_scenario_type", "scenario type")):
            parts += [f"### ADE@3s [m] by {words}", "", tables.by_group(comparison, title).markdown(), ""]
        reasons = tables.reasoning(comparison)
        if reasons:
            parts += ["### Reasons against waypoints", "", reasons.markdown(), ""]
    manoeuvres = [drive for drive in drives if has_manoeuvres(drive)]
    loops = [drive for drive in drives if not has_manoeuvres(drive)]
    parts += closed_loop_markdown(loops) if loops else []
    parts += manoeuvres_markdown(manoeuvres) if manoeuvres else []
    if comparisons:
        parts += ["## What the numbers mean", ""]
        parts += [f"- {key}: {markdown_text(text)}" for key, text in DEFINITIONS.items()]
    parts += ["", "## To get this again", "", "```", _commands(folders, comparisons), "```", ""]
    parts += [f"nsdrive {__version__}, score version {SCORE_VERSION}", ""]
    return "\n".join(parts).encode("utf-8", "replace").decode("utf-8")


def _with_interval(cell: dict[str, float | None]) -> str:
    return f"{cell['value']:.2f} {_interval(cell)}".strip()


def _interval(cell: dict[str, float | None], *, scale: float = 1.0, digits: int = 2) -> str:
    low, high = cell["low"], cell["high"]
    return "" if low is None or high is None else f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
