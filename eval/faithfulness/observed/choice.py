"""Claims about a choice among proposals, and about neighbouring lanes, of planners that weigh them.

A text says of a choice only what is new. What it leaves as it was, though it has changed, is missing there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from eval.faithfulness.observed.ledger import Ledger, at
from eval.faithfulness.observed.tolerances import within
from nsdrive.trace.choice import Choice, LaneVerdict, Motion
from nsdrive.trace.lines import pieces_of
from nsdrive.trace.templates import TERM_WORDS, motion_words
from nsdrive.trace.text import Line
from nsdrive.trace.trace import Step

UNKNOWN = "the planner's decision is not known"


@dataclass(kw_only=True)
class Choices:
    """Judges the choices of a text's steps in turn. choice: as the text has it now; stale: pieces of it that are known to be
    wrong since an earlier step."""

    ledger: Ledger
    choice: Choice | None = None
    stale: frozenset[str] = frozenset()

    def judge(self, k: int, state: Line, lines: Sequence[Line], complete: bool) -> None:
        """Step k; lines: its choice, losers and lane lines."""
        trace = self.ledger.truth.told
        step = None if trace is None else trace.steps[k]
        said: set[str] = set()
        for line in lines:
            if line.kind == "lane":
                self._lane(k, line, line.means, step)
                continue
            self.choice = line.means
            if line.kind == "losers":
                said.add("losers")
                self._losers(k, line, step)
            else:
                said |= {name for name, piece in line.fields.items() if piece is not None} or {"chosen"}
                self._pieces(k, line, step)
        if complete and step is not None:
            self._missing(k, state.number, said, [line.means.path for line in lines if line.kind == "lane"], step)

    def _pieces(self, k: int, line: Line, step: Step | None) -> None:
        """A claim for each piece that the line says."""
        when = at(k)
        if line.means is None:
            right = None if step is None else step.choice is None
            so = UNKNOWN if step is None else self._so("chosen", step.choice)
            self.ledger.add(line.number, "choice", right, "nothing is chosen" + when, so)
            return
        for name, piece in line.fields.items():
            if piece is None:
                continue
            right = None if step is None else self._same(name, line.means, step.choice)
            so = UNKNOWN if step is None else self._so(name, step.choice)
            self.ledger.add(line.number, "choice", right, _words(name, line.means) + when, so)

    def _so(self, name: str, true: Choice | None) -> str:
        """A piece of the true choice, with the scenario's ids: the text's own names may mean others."""
        return _words(name, true, self.ledger.truth.ids)

    def _losers(self, k: int, line: Line, step: Step | None) -> None:
        right = None if step is None else self._same("losers", line.means, step.choice)
        so = UNKNOWN if step is None else self._so("losers", step.choice)
        self.ledger.add(line.number, "choice", right, _words("losers", line.means) + at(k), so)

    def _same(self, name: str, said: Choice | None, true: Choice | None) -> bool:
        """Whether a piece of a choice is the true one."""
        if said is None or true is None:
            return said is true
        same = self.ledger.same_blame
        if name == "chosen":
            return same_motion(said.chosen, true.chosen)
        if name == "score":
            return within("score", said.score, true.score) <= 1.0 and same(said.flaw, true.flaw)
        if name == "runner_up":
            return same_motion(said.runner_up, true.runner_up)
        if name == "margin":
            if said.margin is None or true.margin is None:
                return said.margin is true.margin
            return within("margin", said.margin, true.margin) <= 1.0 and same(said.loses_for, true.loses_for)
        ids = self.ledger.truth.ids
        left = list(true.losers)
        for group in said.losers:
            fit = [
                other
                for other in left
                if other.term == group.term
                and self.ledger.means(group.about, None if other.about is None else ids.get(other.about, other.about))
                and abs(other.count - group.count) <= max(1, other.count // 5)
            ]
            if not fit:
                return False
            left.remove(fit[0])
        return not left

    def _lane(self, k: int, line: Line, said: LaneVerdict, step: Step | None) -> None:
        """What is said of a neighbouring lane."""
        words = f"{said.path} for {said.reason}" if said.reason is not None else f"{said.path} is not considered"
        words += at(k)
        if step is None:
            self.ledger.add(line.number, "lane", None, words, UNKNOWN)
            return
        true = self._verdict(k, step, said.path)
        if said.reason is None or true is None:
            so = f"{said.path} is {'not ' if true is None else ''}considered"
            self.ledger.add(line.number, "lane", said.reason is None and true is None, words, so)
            return
        ids = self.ledger.truth.ids
        right = said.reason == true.reason and (said.safe is None) == (true.safe is None) and said.safe == true.safe
        numbers = (
            (said.incentive_mps2, true.incentive_mps2),
            (said.threshold_mps2, true.threshold_mps2),
            (said.follower_accel_mps2, true.follower_accel_mps2),
            (said.safe_accel_mps2, true.safe_accel_mps2),
        )
        right &= all((a is None) == (b is None) for a, b in numbers)
        right = right and all(
            within("incentive_mps2", a, b) <= 1.0 for a, b in numbers if a is not None and b is not None
        )
        for name, other in ((said.follower, true.follower), (said.blocker, true.blocker)):
            right = right and self.ledger.means(name, None if other is None else ids.get(other, other))
        verdict = "not wanted" if true.safe is None else "safe" if true.safe else "unsafe"
        so = f"{verdict}, for {true.reason} {true.incentive_mps2:.2f} of {true.threshold_mps2:.2f}"
        self.ledger.add(line.number, "lane", right, words, so)

    def _verdict(self, k: int, step: Step, path: str) -> LaneVerdict | None:
        """What the planner thought of a lane at a step, None where it did not consider it."""
        trace = self.ledger.truth.trace
        change = next((c for c in trace.steps[k].lane_changes if c.path == path), None) if trace is not None else None
        if change is not None:
            return LaneVerdict.of(change)
        return next((v for v in step.lane_news if v.path == path and v.reason is not None), None)

    def _missing(self, k: int, number: int, said: set[str], lanes: Sequence[str], step: Step) -> None:
        """What has changed and is not said."""
        if self.choice is None or step.choice is None:
            if (self.choice is None) != (step.choice is None) and not said and "chosen" not in self.stale:
                self.ledger.miss(number, "choice", self._so("chosen", step.choice))
            self.stale = frozenset(["chosen"]) if (self.choice is None) != (step.choice is None) else frozenset()
        else:
            text = self.ledger.truth.text
            told = None if text is None else text.steps[k].choice
            names = [*pieces_of(step.choice)]
            if not step.choice.losers or (told is not None and told.losers):  # else they are left out of a long text
                names.append("losers")
            wrong = {name for name in names if not self._same(name, self.choice, step.choice)}
            for name in names:
                if name in wrong and name not in said and name not in self.stale:
                    self.ledger.miss(number, "choice", self._so(name, step.choice))
            self.stale = frozenset(wrong)
        for news in step.lane_news:
            if news.path not in lanes:
                words = "is not considered any more" if news.reason is None else f"is considered for {news.reason}"
                self.ledger.miss(number, "lane", f"{news.path} {words}")


def same_motion(said: Motion | None, true: Motion | None) -> bool:
    if said is None or true is None:
        return said is true
    return (
        said.path == true.path
        and within("offset_m", said.offset_m, true.offset_m) <= 1.0
        and within("speed_fraction", said.speed_fraction, true.speed_fraction) <= 1.0
    )


def _words(name: str, choice: Choice | None, ids: Mapping[str, str] = MappingProxyType({})) -> str:
    """A piece of a choice in a few words; ids: what to call things instead."""
    if choice is None:
        return "nothing is chosen"
    if name == "chosen":
        return f"choose {motion_words(choice.chosen)}"
    if name == "runner_up":
        return f"over {motion_words(choice.runner_up)}"

    def why(term: str | None, about: str | None) -> str:
        return TERM_WORDS[term] + ("" if about is None else f" {ids.get(about, about)}")

    if name == "losers":
        return "lose " + (
            ", ".join(f"{group.count} {why(group.term, group.about)}" for group in choice.losers) or "none"
        )
    number, blame = (choice.score, choice.flaw) if name == "score" else (choice.margin, choice.loses_for)
    words = f"{name} {0.0 if number is None else number:.2f}"
    return words if blame is None else f"{words} for {why(blame.term, blame.about)}"
