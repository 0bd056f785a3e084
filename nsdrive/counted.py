"""A number and what it counts, as everything that nsdrive prints has it: 1 step, 2 steps, 1,200 steps."""

from __future__ import annotations


def counted(n: float, one: str, many: str | None = None, *, form: str = "") -> str:
    """`n` with the word for it, or the phrase. many: where that is not `one` and an s. form: of the number, "," for 1,200."""
    return f"{n:{form}} {one if n == 1 else many or one + 's'}"
