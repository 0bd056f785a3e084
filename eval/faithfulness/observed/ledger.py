"""What is noted while a text is judged: its claims, what it leaves out, and whom its names mean."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from eval.faithfulness.observed.objects import Match
from eval.faithfulness.observed.truth import Truth
from nsdrive.trace.choice import Blame
from nsdrive.trace.trace import STEP_S

Verdict = Literal["true", "false", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One thing that a line says. line: from 1, within the reasoning. kind: key of `claims.KINDS`. said, truth: a few words each.
    about: the scenario's id of what it is about, as the truth has it; None where it is about nothing or nobody."""

    line: int
    kind: str
    verdict: Verdict
    said: str
    truth: str
    about: str | None = None


def at(k: int) -> str:
    """The time of a step in words, to follow what is said of it."""
    return " now" if k == 0 else f" in {k * STEP_S:.1f} s"


@dataclass(kw_only=True)
class Ledger:
    """The state of judging one text. meanings: name -> ids that it may mean; bound: ids that some name stands for. adds_up: of
    each evaluation in turn, whether its arithmetic is right. expected, found: how much of each kind a full text would say, and
    how much of that this one says."""

    truth: Truth
    claims: list[Claim] = field(default_factory=list)
    missing: list[Claim] = field(default_factory=list)
    meanings: dict[str, frozenset[str]] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)  # id -> name
    matches: list[Match] = field(default_factory=list)
    adds_up: list[bool] = field(default_factory=list)
    binding_right: list[bool] = field(default_factory=list)  # by step, as far as it is known
    expected: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)

    def add(self, line: int, kind: str, right: bool | None, said: str, truth: str, about: str | None = None) -> None:
        verdict: Verdict = "unknown" if right is None else "true" if right else "false"
        self.claims.append(Claim(line=line, kind=kind, verdict=verdict, said=said, truth=truth, about=about))

    def miss(self, line: int, kind: str, truth: str, about: str | None = None) -> None:
        """Something that the text leaves out where it belongs at this line."""
        self.missing.append(Claim(line=line, kind=kind, verdict="false", said="", truth=truth, about=about))

    def name(self, name: str, thing_ids: frozenset[str], best: str) -> None:
        """From now on `name` means one of these; `best` is the likeliest."""
        self.meanings[name] = thing_ids
        self.bound.setdefault(best, name)

    def may_mean(self, name: str | None, thing_id: str | None) -> bool:
        """Whether a name of the text can stand for a thing of the scenario, as far as its names were used before."""
        if name is None or thing_id is None:
            return name is None and thing_id is None
        if name in self.meanings:
            return thing_id in self.meanings[name]
        return thing_id not in self.bound

    def means(self, name: str | None, thing_id: str | None) -> bool:
        """`may_mean`; and a name that was not used before means this thing from now on."""
        may = self.may_mean(name, thing_id)
        if may and name is not None and thing_id is not None and name not in self.meanings:
            self.name(name, frozenset([thing_id]), thing_id)
        return may

    def same_blame(self, said: Blame | None, true: Blame | None) -> bool:
        """Whether a reason is the true one: term and object, and for a collision within half a second the time."""
        if said is None or true is None:
            return said is None and true is None
        true_id = None if true.about is None else self.truth.ids.get(true.about, true.about)
        if said.term != true.term or not self.means(said.about, true_id):
            return False
        return said.time_s is None or true.time_s is None or abs(said.time_s - true.time_s) <= 0.5
