"""The films of closed-loop runs on the report's page: by family, all runs side by side, held in the page itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.closed_loop.film import ABOVE_PX, TITLE_PX, WIDTH_PX, WORDS_PX
from eval.report.page import clean
from eval.report.table import markdown_text
from nsdrive.dataset import inside

MOST_BYTES = 24_000_000  # chosen by us: what a browser still opens at once; films beyond it are named
MOST_FILM_BYTES = 2_000_000  # chosen by us: larger is none of ours
NOTE = (
    "Seen from above, at the pace of the drive. Blue: the ego, and where it came from. Green: its plan, a dot every half second; "
    "orange: what a model answered, from where it was asked. Who brakes has a red back. Beneath: what bound, whom the ego "
    "touched, what it said."
)
Run = tuple[Path, Mapping[str, Any]]  # a run's folder and its results


def films_html(runs: Sequence[Run]) -> str:
    """A block that unfolds for each family; nothing where no run has films."""
    families = sorted({str(film["family"]) for _, results in runs for film in _films(results)})
    if not families:
        return ""
    left = MOST_BYTES
    blocks = []
    for family in families:
        figures, scores = [], []
        for folder, results in runs:
            for film in (film for film in _films(results) if str(film["family"]) == family):
                shown, left = _figure(folder, film, left)
                figures.append(shown)
                scores.append(f"{_which(film)}{float(film['score']):.2f}")
        blocks.append(
            f"<details><summary>{clean(family)}: {', '.join(scores)}</summary>"
            f'<div class="planners">{"".join(figures)}</div></details>'
        )
    return f"<h3>Films</h3><p class=note>{NOTE}</p>{''.join(blocks)}"


def films_markdown(runs: Sequence[Run]) -> list[str]:
    """Their files."""
    listed = [
        f"- {markdown_text(film['family'])}, {markdown_text(film['which'])} ({float(film['score']):.4f}): "
        f"{markdown_text(folder.name + '/' + str(film['file']))}"
        for folder, results in runs
        for film in _films(results)
    ]
    return ["### Films", "", *listed, ""] if listed else []


def _films(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the results list, as far as it is a film: they may have been written by anybody."""
    listed = results.get("films")
    return [
        film
        for film in (listed if isinstance(listed, list) else [])
        if isinstance(film, dict)
        and all(isinstance(film.get(name), str) for name in ("family", "which", "scenario", "file"))
        and isinstance(film.get("score"), int | float)
    ]


def _which(film: Mapping[str, Any]) -> str:
    return f"{clean(film['which'])} " if film["which"] in ("best", "worst") else ""


def _figure(folder: Path, film: Mapping[str, Any], left: int) -> tuple[str, int]:
    """The figure, and how many bytes the page may still take."""
    caption = f"<figcaption>{clean(folder.name)}: {_which(film)}{float(film['score']):.4f}<br>"
    caption += f"<small>{clean(film['scenario'])}</small></figcaption>"
    try:
        made = inside(folder, str(film["file"])).read_bytes()
    except (OSError, ValueError):
        made = b""
    if not (made[:4] == b"RIFF" and made[8:12] == b"WEBP" and len(made) <= MOST_FILM_BYTES):
        return f"<figure>{caption}<p class=note>The film is not there: {clean(film['file'])}</p></figure>", left
    if len(made) > left:
        return (
            f"<figure>{caption}<p class=note>Not in this page, which is large enough: {clean(film['file'])}</p></figure>",
            left,
        )
    data = base64.b64encode(made).decode("ascii")
    picture = (
        f'<img src="data:image/webp;base64,{data}" width="{WIDTH_PX}" height="{TITLE_PX + ABOVE_PX + WORDS_PX}" '
        f'loading="lazy" alt="Film of {clean(film["scenario"])}">'
    )
    return f"<figure>{caption}{picture}</figure>", left - len(made)
