"""A reasoning text in sections, so that it can be cut after the first k of them or have one replaced by another text's.

Our own texts, brief or detailed, have the sections that a reader sees, named:

    scene     "Scene: 3 vehicles in view, light red"
    route     "Route: turn left in 35 m, limit 13.41 m/s"
    objects   the lines of the objects
    phases    brief: the lines "until 2.0 s lead vehicle-1: brake"
    motion    brief: the rows of speeds, accelerations and ways
    0.0 ...   detailed: what is said of each half second, "0.0" to "4.5"
    end       detailed: the state at 5 s and the turn; brief: the turn

They are found line by line, so a text with a mistake in it is cut in the same places. Any other text is cut by lines, and one of
a single line by sentences, into at most MAX_SECTIONS pieces "lines-1", "lines-2", ... of about equal length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nsdrive.trace.trace import N_STEPS, STEP_S

MAX_SECTIONS = N_STEPS + 4  # as many as a detailed text of ours has; a stranger's text may have any number of lines
STEP_NAMES = tuple(f"{k * STEP_S:.1f}" for k in range(N_STEPS))
KINDS = ("scene", "route", "objects", "phases", "motion", "steps", "end", "lines")  # what importance is told of

_HEADS = (
    (re.compile(r"Scene: "), "scene"),
    (re.compile(r"Route: "), "route"),
    (re.compile(r"[a-z]+-[0-9]{1,4} "), "objects"),
    (re.compile(r"until [0-9]"), "phases"),
    (re.compile(r"(?:speed|accel|moved) [-0-9]"), "motion"),
    (re.compile(r"turned -?[0-9]"), "end"),
)
_STEP = re.compile(r"([0-9]\.[05]) speed ")
_END_TIME = f"{N_STEPS * STEP_S:.1f}"
_SENTENCE_END = re.compile(r"(?<=[.!?;]) +")


@dataclass(frozen=True, kw_only=True)
class Section:
    """name: unique in its text. text: verbatim, line ends and all, so that the sections of a text add up to it."""

    name: str
    text: str

    @property
    def kind(self) -> str:
        """One of KINDS."""
        if self.name in STEP_NAMES:
            return "steps"
        return "lines" if self.name.startswith("lines-") else self.name


def sections(text: str) -> tuple[Section, ...]:
    """The sections of a text in order, () of an empty one: `"".join(s.text for s in sections(text)) == text`."""
    if not text.strip():
        return ()
    lines = [line for line in re.split(r"(?<=\n)", text) if line]
    found: dict[str, list[str]] = {}
    before: list[str] = []  # anything before the first head goes to that section
    at = None
    for line in lines:
        name = _head(line)
        if name is not None and name not in found:  # what comes a second time goes on with the section that it is in
            at = name
            found[at], before = before, []
        (before if at is None else found[at]).append(line)
    if len(found) < 2:
        return _by_lines(lines)
    return tuple(Section(name=name, text="".join(said)) for name, said in found.items())


def first(parts: Sequence[Section], k: int) -> str:
    """The text of the first k sections, without the last line end."""
    return "".join(section.text for section in parts[:k]).rstrip("\n")


def swapped(parts: Sequence[Section], name: str, other: Section) -> str:
    """The text with the section of this name replaced by another text's."""
    said = []
    for section in parts:
        if section.name == name:
            ends = section.text[len(section.text.rstrip("\n")) :]
            said.append(other.text.rstrip("\n") + ends)
        else:
            said.append(section.text)
    return "".join(said)


def _head(line: str) -> str | None:
    """The section that a line begins, None where it goes on."""
    step = _STEP.match(line)
    if step is not None:
        return step[1] if step[1] in STEP_NAMES else "end" if step[1] == _END_TIME else None
    return next((name for pattern, name in _HEADS if pattern.match(line)), None)


def _by_lines(lines: Sequence[str]) -> tuple[Section, ...]:
    pieces = list(lines)
    if len(pieces) == 1:
        cuts = [match.end() for match in _SENTENCE_END.finditer(pieces[0])]
        ends = [*cuts, len(pieces[0])]
        pieces = [pieces[0][a:b] for a, b in zip([0, *cuts], ends, strict=True) if b > a]
    n = min(len(pieces), MAX_SECTIONS)
    bounds = [round(k * len(pieces) / n) for k in range(n + 1)]
    return tuple(Section(name=f"lines-{k + 1}", text="".join(pieces[bounds[k] : bounds[k + 1]])) for k in range(n))
