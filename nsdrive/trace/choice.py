"""What a text says of a choice among proposals: who won, who came second and why, and for what reason the rest lose.

A decision's proposals are some hundred numbers a tick; these are the few that decided. An example:

    Choice(
        chosen=Motion(path="keep", offset_m=0.0, speed_fraction=0.8), score=0.91, flaw=None,
        runner_up=Motion(path="keep", offset_m=-1.0, speed_fraction=0.8), margin=0.021, loses_for=Blame(term="progress"),
        losers=(Losers(count=3, term="no_at_fault_collision", about="vehicle-2"), Losers(count=10, term="progress")),
    )

Everything here follows from the record (`choice_of`, `news_of`): a text that says otherwise is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nsdrive.world.decision import LaneChange, Proposal, Term
from nsdrive.world.scoring import TERMS, reason


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Which proposal: its path (one of `decision.PATHS`), offset from that path's centerline, share of the speed limit."""

    path: str
    offset_m: float
    speed_fraction: float

    @staticmethod
    def of(proposal: Proposal) -> Motion:
        return Motion(path=proposal.path, offset_m=proposal.offset_m, speed_fraction=proposal.speed_fraction)


@dataclass(frozen=True, kw_only=True)
class Blame:
    """A term for which something loses score. term: key of `scoring.TERMS`; None where it loses for nothing but its place in
    the list, its score being equal. about: name of the object that made it so. time_s: until a collision; None for other
    terms, whose numbers decide nothing."""

    term: str | None
    about: str | None = None
    time_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Losers:
    """How many proposals lose for the same term and object (see Blame)."""

    count: int
    term: str | None
    about: str | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice as a text states it. flaw: what keeps the chosen proposal from a score of 1.0, None where that is nothing but
    missing progress. runner_up, margin, loses_for: the second best, by how much score and for which term; None where there is
    only one. losers: all others, in the order of the terms; how many is as of when a reason last came or went."""

    chosen: Motion
    score: float
    flaw: Blame | None = None
    runner_up: Motion | None = None
    margin: float | None = None
    loses_for: Blame | None = None
    losers: tuple[Losers, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LaneVerdict:
    """What is thought of a neighbouring lane, as far as it decides: where the incentive is too small nobody needs to ask the
    follower, and `follower`, both accelerations, `safe` and `blocker` are None. reason None: the lane is no longer considered."""

    path: str
    reason: str | None = None
    incentive_mps2: float | None = None
    threshold_mps2: float | None = None
    follower: str | None = None
    follower_accel_mps2: float | None = None
    safe_accel_mps2: float | None = None
    safe: bool | None = None
    blocker: str | None = None

    @property
    def verdict(self) -> tuple[str | None, str | None, bool | None, str | None]:
        """What makes it news when it changes."""
        return self.reason, self.follower, self.safe, self.blocker

    @staticmethod
    def of(change: LaneChange) -> LaneVerdict:
        verdict = LaneVerdict(
            path=change.path,
            reason=change.reason,
            incentive_mps2=change.incentive_mps2,
            threshold_mps2=change.threshold_mps2,
        )
        if not change.wanted:
            return verdict
        verdict = replace(verdict, safe=change.safe, blocker=None if change.safe else change.blocker)
        if change.follower is None:
            return verdict
        return replace(
            verdict,
            follower=change.follower,
            follower_accel_mps2=change.follower_accel_mps2,
            safe_accel_mps2=change.safe_accel_mps2,
        )


def choice_of(proposals: Sequence[Proposal], chosen: int | None, runner_up: int | None) -> Choice | None:
    """The choice that these proposals and this outcome make, None without one."""
    if chosen is None:
        return None
    winner = proposals[chosen]
    choice = Choice(chosen=Motion.of(winner), score=winner.score, flaw=_flaw(winner))
    if runner_up is None:
        return choice
    blames = [blame_of(p, winner) for i, p in enumerate(proposals) if i not in (chosen, runner_up)]
    groups = Counter((blame.term, blame.about) for blame in blames)
    order = [*TERMS, None]
    losers = [
        Losers(count=n, term=term, about=about)
        for (term, about), n in sorted(groups.items(), key=lambda kv: (order.index(kv[0][0]), kv[0][1] or ""))
    ]
    second = proposals[runner_up]
    return replace(
        choice,
        runner_up=Motion.of(second),
        margin=winner.score - second.score,
        loses_for=blame_of(second, winner),
        losers=tuple(losers),
    )


def blame_of(loser: Proposal, winner: Proposal) -> Blame:
    """The term for which a proposal loses against the winner, and who or when where that is known."""
    name = reason(loser, winner)
    if name is None:
        return Blame(term=None)
    return _blame(next(term for term in loser.terms if term.name == name))


def news_of(lane_changes: Sequence[Sequence[LaneChange]]) -> list[tuple[LaneVerdict, ...]]:
    """Of each step's lane changes those whose verdict is not what it was at the last step, and the lanes no longer considered.

    The verdict is the reason, whether the change is wanted and safe, and who follows or blocks: a number that moves without
    turning it is no news.
    """
    last: dict[str, LaneVerdict] = {}
    news = []
    for changes in lane_changes:
        now = {change.path: LaneVerdict.of(change) for change in changes}
        said = [v for path, v in now.items() if path not in last or v.verdict != last[path].verdict]
        news.append((*said, *(LaneVerdict(path=path) for path in last if path not in now)))
        last = now
    return news


def _flaw(winner: Proposal) -> Blame | None:
    faultless = [term if term.name == "progress" else Term(name=term.name, value=1.0) for term in winner.terms]
    blame = blame_of(winner, replace(winner, terms=tuple(faultless)))
    return None if blame.term is None else blame


def _blame(term: Term) -> Blame:
    return Blame(
        term=term.name, about=term.about, time_s=term.measured if term.name == "no_at_fault_collision" else None
    )


def same_reasons(now: Sequence[Losers], before: Sequence[Losers]) -> bool:
    """Whether the others lose for the same terms and objects. That one more does than before is no news."""
    return [(group.term, group.about) for group in now] == [(group.term, group.about) for group in before]
