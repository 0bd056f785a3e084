"""Evaluations, drives and trainings -> report.html (one file, nothing from elsewhere) and report.md: what a reviewer opens.

It leads with the verdict and the strict numbers with their intervals, sets every model beside baselines that see no image, says
when the sample is small, and lets the reader look at samples one by one, with what each sentence of a text is worth. No dates:
the same input gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.closed_loop.tables import ClosedLoopRun, closed_loop_html, closed_loop_markdown
from eval.evaluate import DEFINITIONS, SCORE_VERSION
from eval.manoeuvres.tables import has_manoeuvres, manoeuvres_html, manoeuvres_markdown
from eval.report.block import Block
from eval.report.browser import IMAGE_BYTES, Browser, browser_of, embedded, script, style
from eval.report.cases import SHOWN_IN_FULL
from eval.report.chapters import blocks_of, published
from eval.report.page import clean, page
from eval.report.rerun_recording import require_rerun, write_recording
from eval.report.runs import Comparison, load_runs
from eval.report.scene import Scenes
from eval.report.table import markdown_text
from eval.report.training import is_training, load_training, training_blocks
from nsdrive import __version__
from nsdrive.dataset import Dataset, write_atomically
from nsdrive.output_folder import refuse_dataset

REPORT_HTML, REPORT_MD = "report.html", "report.md"
LEAD = {
    "Driving evaluation": "Predicted waypoints against the planner's own, and predicted reasons against the scene and the "
    "waypoints that they explain.",
    "Training": "How models learnt to say where a planner drives, and why.",
}
SURE_P = 0.05  # convention
FEW_SCENARIOS = 30  # chosen by us: below it a percentile interval is itself a rough guess


def report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    scenes: Callable[[Dataset], Scenes] | None = None,
    in_full: int = SHOWN_IN_FULL,
    rerun: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `out`/report.html and report.md; returns the path of the HTML file. runs: folders of `nsdrive evaluate`, of
    `nsdrive simulate` and of `nsdrive train`, in any mix.

    scenes: dataset -> a function sample -> its Scenario, edited where the sample is, whose road is then drawn; it may raise
    ValueError where a scene cannot be had again. in_full: how many samples are shown with images and texts. rerun: also write
    those as a recording for the Rerun viewer. Raises FileNotFoundError or ValueError where a folder holds no results, or `out` a
    report.
    """
    out = Path(out)
    if (out / REPORT_HTML).exists() and not overwrite:
        raise ValueError(f"{out} has a report. Replace it with --overwrite, or choose another --out")
    refuse_dataset(out)
    if rerun is not None:
        require_rerun()
    trainings = [load_training(folder) for folder in runs if is_training(folder)]
    others = [folder for folder in runs if not is_training(folder)]
    comparisons, drives = load_runs(others) if others or not trainings else ([], [])
    learnt = training_blocks(trainings)
    title = "Driving evaluation" if others else "Training"
    manoeuvres = [drive for drive in drives if has_manoeuvres(drive)]
    loops = [drive for drive in drives if not has_manoeuvres(drive)]
    share = IMAGE_BYTES // max(1, len(comparisons))
    browsers = [browser_of(c, scenes=scenes, limit=in_full, image_bytes=share) for c in comparisons]
    blocks = [blocks_of(comparison, k) for k, comparison in enumerate(comparisons)]
    last = [published(comparisons)] if comparisons else []
    again = _commands(runs, comparisons)
    body = "\n".join(
        [
            f"<h1>{title}</h1>",
            f'<p class="lead">{LEAD[title]}</p>',
            *(
                "\n".join(
                    [
                        _headline_html(comparison, k),
                        of_one[0].html(),
                        _browser_html(browser, k),
                        *(block.html() for block in of_one[1:]),
                    ]
                )
                for k, (comparison, of_one, browser) in enumerate(zip(comparisons, blocks, browsers, strict=True))
            ),
            *([f'<section id="closed-loop">{closed_loop_html(loops)}</section>'] if loops else []),
            *([f'<section id="manoeuvres">{manoeuvres_html(manoeuvres)}</section>'] if manoeuvres else []),
            *(block.html() for block in learnt),
            *(_dataset_html(comparison) for comparison in comparisons),
            *(block.html() for block in last),
            *([_definitions_html()] if comparisons else []),
            f"<h2>To get this page again</h2><pre>{clean(again)}</pre>",
            f"<footer>nsdrive {clean(__version__)} · score version {SCORE_VERSION} · this file loads nothing, and runs nothing but "
            "its own sample browser: its policy names that one script by its hash</footer>",
            *([embedded(browsers)] if browsers else []),
        ]
    )
    contents = _contents(comparisons, blocks, bool(loops), bool(manoeuvres), learnt)
    write_atomically(out / REPORT_MD, _markdown(title, comparisons, blocks, [*learnt, *last], loops, manoeuvres, again))
    html = page(
        f"nsdrive: {title.lower()}", body, contents=contents, style=style(), script=script() if browsers else ""
    )
    if rerun is not None:
        write_recording([one for browser in browsers for one in browser.shown], rerun)
    write_atomically(out / REPORT_HTML, html)
    return out / REPORT_HTML


def _contents(
    comparisons: Sequence[Comparison],
    blocks: Sequence[Sequence[Block]],
    loops: bool,
    manoeuvres: bool,
    learnt: Sequence[Block],
) -> list[tuple[str, str]]:
    """(anchor, words) of the page's parts, in its order."""
    links = []
    for k, of_one in enumerate(blocks):
        several = len(comparisons) > 1
        links.append((f"verdict-{k}", f"Verdict: {comparisons[k].facts['name']}" if several else "Verdict"))
        found = [(block.anchor, block.link) for block in of_one if block.link]
        links += [*found[:1], (f"samples-{k}", "Samples"), *found[1:]]
    links += [("closed-loop", "Closed loop")] if loops else []
    links += [("manoeuvres", "Manoeuvres")] if manoeuvres else []
    links += [(block.anchor, block.link) for block in learnt]
    return [*links, *([("published", "Paper"), ("meaning", "Definitions")] if comparisons else [])]


# ---- one dataset ----------------------------------------------------------------------------------------------------


def _headline_html(comparison: Comparison, k: int) -> str:
    """What to know first: the verdict, the numbers behind it, and what a reader must know before believing them."""
    facts = comparison.facts
    good_bad, verdict = _verdict(comparison)
    return "\n".join(
        [
            f'<section id="verdict-{k}"><h2>{clean(facts["name"])}, split {clean(facts["split"])}</h2>',
            f'<p class="verdict {good_bad}">{clean(verdict)}</p>',
            _tiles(comparison),
            *(f'<div class="warn">{clean(note)}</div>' for note in _notes(comparison)),
            "</section>",
        ]
    )


def _browser_html(browser: Browser, k: int) -> str:
    notes = "".join(f'<p class="note">{clean(note)}</p>' for note in browser.notes)
    return (
        f'<section id="samples-{k}"><h2>Samples</h2>{notes}<noscript><p class="warn">The sample browser needs JavaScript; '
        f'everything else on this page does without.</p></noscript><div class="browser" id="browser-{k}"></div></section>'
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
    test = next(
        (t for t in main.run.results["paired"] if (t["a"], t["b"], t["measure"]) == (main.key, blind.key, "3s/ADE")),
        None,
    )
    p = None if test is None else test["p"]
    how = "paired" if p is None else f"paired, p {p:.3f}" if p >= 0.001 else "paired, p < 0.001"
    if (low > 0.0 or high < 0.0) and p is not None and p >= SURE_P:
        seems = "better" if gain > 0.0 else "worse"
        apart = f"{abs(gain):.2f} m [{min(abs(low), abs(high)):.2f}, {max(abs(low), abs(high)):.2f}] ({how})"
        return "", f"{text} the model looks {seems}, by {apart}, but with so few scenarios that can be chance."
    if low > 0.0:
        return "good", f"{text} the model is better, by {gain:.2f} m [{low:.2f}, {high:.2f}] ({how})."
    if high < 0.0:
        worse = f"the model is worse, by {-gain:.2f} m [{-high:.2f}, {-low:.2f}] ({how})"
        return "bad", f"{text} {worse}. It does not yet drive better than one who sees nothing."
    apart = f"baseline minus model {gain:+.2f} m [{low:+.2f}, {high:+.2f}], {how}"
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
        (
            parsed_ade,
            f"ADE@3s, parsed: the {main.entry.get('parsed_n', n - failed)} answers that the published script counts",
        ),
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
        for name, commands in (run.results.get("controls_missing") or {}).items():
            notes.append(
                f"{name}: {len(commands)} of its controls are not here (images blacked out or of another sample, no text, the "
                "label's text): without them it is not known what it looks at. The commands stand at the end of this page."
            )
        notes += run.results["warnings"]
    for row in comparison.rows:
        for reason, count in list(row.entry["failures"].items())[:3]:
            notes.append(f"{row.name}: {count} answers failed: {reason}")
    return notes


def _dataset_html(comparison: Comparison) -> str:
    return f"<h2>The dataset {clean(comparison.facts['name'])}</h2>{_facts_html(comparison)}"


def _facts_html(comparison: Comparison) -> str:
    facts = comparison.facts
    listed = {
        "name": facts["name"],
        "source": facts.get("source"),
        "licence": facts.get("licence"),
        "split": f"{facts['split']}: {facts['samples']} samples of {facts['scenarios']} scenarios",
        "all splits": _counts(facts.get("all_splits") or {}),
        "planner": _counts(facts.get("planners") or {}),
        "scenario types": _counts(facts.get("scenario_types") or {}),
        "binding rules": _counts(facts.get("binding_rules") or {}),
        "manifest sha256": facts["manifest_sha256"],
        "made by": f"nsdrive {facts.get('made_by_nsdrive')}",
    }
    rows = "".join(f"<dt>{clean(k)}</dt><dd>{clean('–' if v is None else v)}</dd>" for k, v in listed.items())
    config = json.dumps(facts.get("config"), indent=2, sort_keys=True, ensure_ascii=False)
    return f"<dl>{rows}</dl><details><summary>Its configuration</summary><pre>{clean(config)}</pre></details>"


# ---- the rest of the page -------------------------------------------------------------------------------------------


def _definitions_html() -> str:
    rows = "".join(f"<dt>{clean(k)}</dt><dd>{clean(v)}</dd>" for k, v in DEFINITIONS.items())
    return f'<section id="meaning"><h2>What the numbers mean</h2><dl>{rows}</dl></section>'


def _commands(folders: Sequence[str | Path], comparisons: Sequence[Comparison]) -> str:
    lines = []
    for run in (run for comparison in comparisons for run in comparison.runs):
        entries = run.results["predictions"].values()
        files = [os.path.normpath(run.folder / entry["file"]) for entry in entries if entry.get("file")]
        facts = run.results["dataset"]
        data = [] if facts["folder"] is None else ["--data", os.path.normpath(run.folder / facts["folder"])]
        where = [*data, "--split", facts["split"], "--out", str(run.folder)]
        lines += [line for commands in (run.results.get("controls_missing") or {}).values() for line in commands]
        lines.append(shlex.join(["nsdrive", "evaluate", "--predictions", *files, *where]))
    return "\n".join([*lines, shlex.join(["nsdrive", "report", *(str(folder) for folder in folders), "--out", "DIR"])])


def _markdown(
    title: str,
    comparisons: Sequence[Comparison],
    blocks: Sequence[Sequence[Block]],
    last: Sequence[Block],
    loops: Sequence[ClosedLoopRun],
    manoeuvres: Sequence[ClosedLoopRun],
    again: str,
) -> str:
    """The same tables for the appendix of a paper."""
    parts = [f"# {title}", ""]
    for comparison, of_one in zip(comparisons, blocks, strict=True):
        facts = comparison.facts
        parts += [
            f"**{markdown_text(facts['name'])}, split {markdown_text(facts['split'])}.** {markdown_text(_verdict(comparison)[1])}",
            "",
        ]
        parts += [f"- {markdown_text(note)}" for note in _notes(comparison)] + [""]
        parts += [line for block in of_one for line in block.markdown()]
    parts += closed_loop_markdown(loops) if loops else []
    parts += manoeuvres_markdown(manoeuvres) if manoeuvres else []
    parts += [line for block in last for line in block.markdown()]
    if comparisons:
        parts += ["## What the numbers mean", ""]
        parts += [f"- {key}: {markdown_text(text)}" for key, text in DEFINITIONS.items()]
    parts += ["", "## To get this again", "", "```", again.replace("```", ""), "```", ""]
    parts += [f"nsdrive {__version__}, score version {SCORE_VERSION}", ""]
    return "\n".join(parts).encode("utf-8", "replace").decode("utf-8")


def _with_interval(cell: dict[str, float | None]) -> str:
    return f"{cell['value']:.2f} {_interval(cell)}".strip()


def _interval(cell: dict[str, float | None], *, scale: float = 1.0, digits: int = 2) -> str:
    low, high = cell["low"], cell["high"]
    return "" if low is None or high is None else f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
