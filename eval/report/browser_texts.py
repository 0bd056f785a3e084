"""A text as the page shows it: line by line, each with what it claims and whether that is so."""

from __future__ import annotations

from typing import Any

from eval.faithfulness.observed.claims import judge_text
from nsdrive.dataset import Sample
from nsdrive.world.rules import IdmParameters

TEXT_SHOWN = 20_000  # characters of a text; a model may write without end
LINES_SHOWN = 400  # chosen by us, as the next two
CLAIMS_SHOWN = 40  # of one line
MISSING_SHOWN = 30
OPENS = "<REASONING>"


def lines_of(sample: Sample, text: str, parameters: IdmParameters | None) -> dict[str, Any]:
    """{"lines": [{"text", "claims": [[verdict, said, truth, object id or None]]}], "missing": [[what, object id or None]], "error":
    why it could not be read to its end, "left_out": characters not shown}. parameters: of the planner's laws, None its defaults."""
    shown = text[:TEXT_SHOWN].split("\n")[:LINES_SHOWN]
    judged = judge_text(sample, text, parameters=parameters)
    claims: dict[int, list[list[str | None]]] = {}
    before = text[: max(0, text.find(OPENS))].count("\n")  # claims count lines from where the reasoning begins
    for claim in judged.claims:
        here = claims.setdefault(claim.line + before, [])
        if len(here) < CLAIMS_SHOWN:
            here.append([claim.verdict, claim.said, claim.truth, claim.about])
    return {
        "lines": [{"text": line, "claims": claims.get(number, [])} for number, line in enumerate(shown, start=1)],
        "missing": [[claim.truth, claim.about] for claim in judged.missing[:MISSING_SHOWN]],
        "unread": judged.error if judged.reasoning is not None else None,
        "left_out": len(text) - len("\n".join(shown)),
    }
