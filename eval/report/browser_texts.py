"""A text as the page shows it: line by line, each with what it claims and whether that is so."""

from __future__ import annotations

from typing import Any

from nsdrive.dataset import Sample

TEXT_SHOWN = 20_000  # characters of a text; a model may write without end
LINES_SHOWN = 400


def lines_of(sample: Sample, text: str) -> dict[str, Any]:
    """{"lines": [{"text", "claims": [[verdict, said, truth, object id or None]]}], "left_out": characters not shown}."""
    shown = text[:TEXT_SHOWN].split("\n")[:LINES_SHOWN]
    left_out = len(text) - len("\n".join(shown))
    return {"lines": [{"text": line, "claims": []} for line in shown], "left_out": left_out}
