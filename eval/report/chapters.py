"""The tables and charts of one data set's split, in the order of the page, and what must be said of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eval.faithfulness.causal.definitions import DEFINITIONS as CAUSAL
from eval.faithfulness.observed.measures import MEASURES
from eval.report import measures, tables
from eval.report.block import Block, Named
from eval.report.figures import Series, legend, line_chart
from eval.report.runs import Comparison, Row
from eval.report.table import Cell, Table
from nsdrive.vla.prompt import WAYPOINT_INTERVAL_S

SPREAD_POINTS = 200  # chosen by us: finer than a screen shows
LINES_SHOWN = 8  # the page has colours for so many

GROUPS = (  # key of an entry, words, what it is
    ("by_binding_rule", "binding rule", "What set the planner's command at the anchor: the cause to be understood."),
    ("by_scenario_type", "scenario type", "The source's own tag of the scenario."),
    ("by_speed", "speed", "Of the ego at the anchor."),
    ("by_length", "length of the label", "How far it drives in its 5 s."),
    (
        "by_visibility",
        "visibility of the binding object",
        "How much the cameras show of what set the planner's command.",
    ),
)
PAIRED = (("3s/ADE", "ADE at 3 s"), ("3s/MR", "Miss rate at 3 s"))
TESTS = (
    "Strict, a minus b on the same samples; the interval by resampling scenarios, p by flipping the sign of whole scenarios, and "
    "corrected after Holm for all the pairs of a table. Bold where the interval leaves out 0 and the corrected p is below 0.05."
)
OBSERVED = (
    "Every sentence is read by the trace's own grammar and held against the scene, the planner's decision and the answer's own "
    "waypoints; no judge is needed. The last column is what the labels' own texts get: no answer can be expected to do better. "
    "None of these asks whether the text is the cause of the motion."
)
CAUSES = (
    "What happens to the motion when the text is another, and to both when the scene is another, held to what the planner does in "
    "the same case. No answer is left out: what one that failed counts as stands with each definition below."
)
VALIDATION = (
    "The same measures of predictors whose faithfulness is known because it is built in. A measure must tell the faithful one from "
    "each that is unfaithful in what it claims to tell (marked *): yes where one answer is enough (AUROC), of means where fifty "
    "scenarios are, NO where neither: do not believe it there."
)
PLANS = (
    "The open-loop plan, driven for 4 s by nuPlan's tracker and judged in its scene: NAVSIM's terms, their products PDMS and "
    "EPDMS, 0 to 1. A failed answer counts 0."
)


def blocks_of(comparison: Comparison, k: int) -> list[Block]:
    """The tables of one dataset's split, in the page's order."""
    board = Block(
        anchor=f"leaderboard-{k}",
        title="Leaderboard",
        link="Leaderboard",
        note="By strict ADE@3s, 95 % intervals over scenarios beneath. \u201c2=\u201d: the paired test does not tell it from the "
        "row above. Grey names see no image.",
        tables=[Named(table=tables.leaderboard(comparison))],
    )
    side_by_side = Block(
        anchor=f"side-by-side-{k}",
        title="Side by side, every horizon",
        link="Every horizon",
        note="Strict: every sample counts, a failed or missing answer as 10 m off at every waypoint. Beneath each number its 95 % "
        "interval over scenarios. Parsed: as the published script counts, unreadable answers left out. Best strict one in bold, "
        "the oracle aside. Grey names see no image.",
        tables=[
            Named(table=tables.headline(comparison)),
            *(
                Named(table=tables.every_measure(row), caption=f"Every measure of {row.name}", folded=True)
                for row in comparison.rows
                if row.kind == "model"
            ),
        ],
    )
    drawn = [row for row in comparison.rows if row.kind != "oracle"]
    left_out = [row.name for row in drawn[LINES_SHOWN:]]
    errors = Block(
        anchor=f"errors-{k}",
        title="Errors",
        note=f"The first {LINES_SHOWN} of {len(drawn)} are drawn; without a line: {', '.join(left_out)}."
        if left_out
        else "",
        figure=_charts(drawn[:LINES_SHOWN]),
    )
    groups = [
        named
        for title, words, note in GROUPS
        if any(row.entry.get(title) for row in comparison.rows)
        for named in (
            Named(table=tables.by_group(comparison, title), caption=f"By {words}: ADE@3s [m]", note=note),
            Named(
                table=tables.by_group(comparison, title, measure="MR"),
                caption=f"Miss rate at 3 s [%], by {words}",
                folded=True,
            ),
        )
    ]
    by_group = Block(
        anchor=f"groups-{k}",
        title="Where it is hard",
        link="Groups",
        note="Strict, 95 % interval beneath, best in bold.",
        tables=groups,
    )
    blocks = [
        board,
        side_by_side,
        *_tests(comparison, k),
        errors,
        by_group,
        *_faithfulness(comparison, k),
        *_plans(comparison, k),
    ]
    return [block for block in blocks if block.tables or block.figure]


def _tests(comparison: Comparison, k: int) -> list[Block]:
    """What the files held, and which differences are more than chance."""
    main = comparison.main.key
    found = []
    for measure, words in PAIRED:
        own = measures.paired(comparison, measure, lambda a, b: main in (a, b))
        others = measures.paired(comparison, measure, lambda a, b: main not in (a, b))
        found += [Named(table=own, caption=words)] if own else []
        found += [Named(table=others, caption=f"{words}: all other pairs", folded=True)] if others else []
    rows = measures.rows_read(comparison)
    held = [Named(table=rows, caption="What the files held besides one readable row per sample")] if rows else []
    return [
        Block(anchor=f"held-{k}", title="The files", tables=held),
        Block(anchor=f"tests-{k}", title="Is the difference more than chance?", link="Tests", note=TESTS, tables=found),
    ]


def _faithfulness(comparison: Comparison, k: int) -> list[Block]:
    """What the texts are worth: observed, as causes, and whether the measures themselves can be believed."""
    observed, causal = measures.observed(comparison), measures.causal(comparison, judged=True)
    seen = [Named(table=observed)] if observed else []
    if observed:
        seen.append(Named(table=_defined(MEASURES), caption="What each of them is", folded=True))
    causes = [Named(table=causal)] if causal else []
    if causal:
        beside = measures.causal(comparison, judged=False)
        causes += [Named(table=beside, caption="To be read beside them", folded=True)] if beside else []
        meant = {name: str(definition) for name, definition in CAUSAL.items()}
        causes.append(Named(table=_defined(meant), caption="What each of them is", folded=True))
    found = [run.results["validation"] for run in comparison.runs if run.results.get("validation")]
    planted = [Named(table=measures.validation(one)) for one in found]
    return [
        Block(
            anchor=f"reasons-{k}",
            title="Do the reasons agree with the scene and the driving?",
            link="Reasons",
            note=OBSERVED,
            tables=seen,
        ),
        Block(anchor=f"causes-{k}", title="Are the reasons the cause?", link="Causes", note=CAUSES, tables=causes),
        Block(
            anchor=f"validation-{k}",
            title="Can these measures be believed?",
            link="Validation",
            note=VALIDATION,
            tables=planted,
        ),
    ]


def _plans(comparison: Comparison, k: int) -> list[Block]:
    scored = measures.plans(comparison)
    return [
        Block(
            anchor=f"plans-{k}",
            title="What the plans are worth",
            link="PDMS",
            note=PLANS,
            tables=[Named(table=scored)] if scored else [],
        )
    ]


def _defined(words: Mapping[str, str]) -> Table:
    rows = [[Cell(text=name), Cell(text=text)] for name, text in words.items()]
    return Table(heads=["measure", "definition"], rows=rows, kinds=["words"] * len(rows))


def _charts(rows: Sequence[Row]) -> str:
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
        '<div class="charts"><figure><figcaption>How the error grows: mean displacement, strict</figcaption>'
        f"{growth}</figure><figure><figcaption>How it is spread: ADE@3s of every sample, sorted</figcaption>{sorted_ade}"
        f"</figure></div>{legend(errors)}"
    )


def published(comparisons: Sequence[Comparison]) -> Block:
    """The paper's table, with our models where they are on data of that kind."""
    note = (
        "Published: Neuro-Symbolic Drive (arXiv 2606.23938), Qwen3.5-4B, on its own benchmark, not comparable with anything here: "
        "that benchmark is not published, its script leaves out answers that cannot be read, and it gives no intervals and no "
        "blind baseline. For orientation only."
    )
    table = tables.paper_table(comparisons)
    if table is None:
        rows = [
            [Cell(text=f"{c} cameras, {r}"), *(Cell(text=v) for v in values)]
            for (c, r), values in tables.PUBLISHED.items()
        ]
        table = Table(heads=["", "published\nADE@3s m", "published\nmiss rate %"], rows=rows)
    return Block(anchor="published", title="The paper's table", link="Paper", note=note, tables=[Named(table=table)])
