"""What is kept of a trace's numbers: by a text of some level (`rounded`), and by a sample's record (`recorded`).

A text keeps of the proposals only the choice (`nsdrive.trace.choice`). Where a detailed one would be longer than MAX_TOKENS,
objects that nobody speaks of go first, the furthest before the nearer; then the reasons of those proposals that are not even
second; then rules that are far from binding. (Of 250 texts of pdm_lanes it came to that in one, of other planners in none.)

A record keeps everything, of the proposals each number to DIGITS decimals, or to as many more as it takes that it means the
same: `scoring.total` of the recorded terms gives the recorded scores, those rank the same two first, and every reason and number
that a text states of the choice comes out alike. So one says of a record what one would have said of the decision, and two
proposals that are a hair apart stay a hair apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nsdrive.trace.choice import Blame, Choice, LaneVerdict, Losers, Motion, choice_of, news_of, same_reasons
from nsdrive.trace.lines import lines_of, n_tokens
from nsdrive.trace.templates import FOLLOW, known_level, places
from nsdrive.trace.trace import EndState, ObjectFacts, Step, Trace, decimals, phases_of, with_margins
from nsdrive.world.decision import Constraint, LaneChange, Proposal, Term
from nsdrive.world.scoring import ranking, total

# of a detailed text, counted as by `n_tokens`, which counts no fewer than Qwen3.5: under 1,200 of its tokens
MAX_TOKENS = 1180
IDLE_MPS2 = 1.0  # chosen by us: an evaluation that allows so much more than the command is the last to be left out
_UNSAID = ("proposals", "chosen", "runner_up", "lane_changes")  # what a record keeps of a step and a text does not
DIGITS = (4, 6, 9, 12)  # tried in turn, then the number as it is. Chosen by us: four nearly always do


def rounded(trace: Trace, level: str) -> Trace:
    """The trace as a text of this level states it: numbers rounded, what is not printed dropped.

    At level none nothing is printed; the detailed numbers are kept, for those who study a sample without its text.
    """
    return _brief(trace) if known_level(level) == "brief" else shortened(_detailed(trace))


def recorded(trace: Trace) -> Trace:
    """The trace as a sample keeps it: as detailed, and all proposals and lane changes. Its texts are those of the trace."""
    said = _detailed(trace)
    changes = _recorded_changes([s.lane_changes for s in trace.steps])
    steps = [
        replace(
            printed,
            proposals=_recorded_proposals(whole),
            chosen=whole.chosen,
            runner_up=whole.runner_up,
            lane_changes=considered,
            choice=None if whole.choice is None else printed.choice,
            lane_news=printed.lane_news if whole.lane_news else (),
        )
        for printed, whole, considered in zip(said.steps, trace.steps, changes, strict=True)
    ]
    return replace(said, steps=tuple(steps))


def of_record(trace: Trace) -> Trace:
    """What a detailed text states of a recorded trace, before it is shortened. Its numbers are as printed already, so that only
    choices and news of lanes have to be found."""
    steps: list[Step] = []
    losers: tuple[Losers, ...] = ()
    for step, news in zip(trace.steps, news_of([s.lane_changes for s in trace.steps]), strict=True):
        choice = step.choice or choice_of(step.proposals, step.chosen, step.runner_up)
        if choice is not None:
            choice, losers = _with_losers(rounded_choice(choice), losers)
        kept = {name: value for name, value in vars(step).items() if name not in _UNSAID}
        told = tuple(_rounded_verdict(v) for v in step.lane_news or news)
        steps.append(Step(**kept | {"choice": choice, "lane_news": told}))
    return replace(trace, steps=tuple(steps))


def rounded_choice(choice: Choice) -> Choice:
    """The choice as printed."""
    return replace(
        choice,
        chosen=_rounded_motion(choice.chosen),
        score=decimals(choice.score, 2),
        flaw=_rounded_blame(choice.flaw),
        runner_up=None if choice.runner_up is None else _rounded_motion(choice.runner_up),
        margin=None if choice.margin is None else decimals(choice.margin, 2),
        loses_for=_rounded_blame(choice.loses_for),
    )


# ---- as printed -------------------------------------------------------------------------------------------------------------


def _brief(trace: Trace) -> Trace:
    named = {p.about for p in trace.phases}
    return replace(
        _head(trace),
        objects=tuple(_object(o) for o in trace.objects if o.name in named),
        steps=tuple(_motion(s) for s in trace.steps),
        end=replace(_end(trace.end), lateral_offset_m=None),
        phases=tuple(replace(p, offset_m=decimals(p.offset_m, 1)) for p in trace.phases),
    )


def _detailed(trace: Trace) -> Trace:
    steps, end = printed_steps(trace.steps), _end(trace.end)
    explained = all(s.binding is not None for s in steps)
    return replace(
        _head(trace),
        objects=tuple(_object(o) for o in trace.objects),
        steps=steps,
        end=end,
        phases=phases_of(steps, end) if explained else trace.phases,
    )


def shortened(trace: Trace) -> Trace:
    """A trace as a detailed text states it (see `of_record`), less what is the first to go where it takes more than MAX_TOKENS."""
    if any(s.binding is None for s in trace.steps) or not _too_long(trace):
        return trace
    for without in (lambda step: step, _without_losers, _without_idle_rules):
        trace = _without_bystanders(replace(trace, steps=tuple(without(s) for s in trace.steps)))
        if not _too_long(trace):
            break
    return trace


def _too_long(trace: Trace) -> bool:
    return n_tokens(lines_of(trace, "detailed")) > MAX_TOKENS


def _without_bystanders(trace: Trace) -> Trace:
    """Without those objects that no step speaks of, the furthest first, until the text is short enough."""
    needed = set(spoken_names(trace.steps))
    spare = [o for o in trace.objects if o.name not in needed]
    while spare and _too_long(trace):
        furthest = spare.pop()
        trace = replace(trace, objects=tuple(o for o in trace.objects if o is not furthest))
    return trace


def _without_losers(step: Step) -> Step:
    return step if step.choice is None else replace(step, choice=replace(step.choice, losers=()))


def _without_idle_rules(step: Step) -> Step:
    """The step with only those evaluations that bind, tie or nearly do, and the target speed, which the others refer to."""
    least = min(c.allows_mps2 for c in step.constraints)
    kept = [
        i
        for i, c in enumerate(step.constraints)
        if i == step.binding or i in step.tied or c.rule == "target_speed" or c.allows_mps2 - least <= IDLE_MPS2
    ]
    assert step.binding is not None, "a detailed trace says what binds"
    return replace(
        step,
        constraints=with_margins([step.constraints[i] for i in kept]),
        binding=kept.index(step.binding),
        tied=tuple(kept.index(i) for i in step.tied),
    )


def spoken_names(steps: Sequence[Step]) -> list[str]:
    """The names of what printed steps speak of, in order."""
    spoken: list[str | None] = []
    for step in steps:
        spoken += [c.about for c in step.constraints]
        if step.choice is not None:
            spoken += [blame.about for blame in (step.choice.flaw, step.choice.loses_for) if blame is not None]
            spoken += [group.about for group in step.choice.losers]
        spoken += [name for verdict in step.lane_news for name in (verdict.follower, verdict.blocker)]
    return [name for name in spoken if name is not None]


def _head(trace: Trace) -> Trace:
    spoken = 0.0 if trace.route.manoeuvre == FOLLOW else decimals(trace.route.distance_m, 0)
    limit = trace.route.speed_limit_mps
    route = replace(trace.route, distance_m=spoken, speed_limit_mps=None if limit is None else decimals(limit, 2))
    return replace(trace, route=route)


def _end(end: EndState) -> EndState:
    return EndState(
        speed_mps=decimals(end.speed_mps, 2),
        accel_mps2=decimals(end.accel_mps2, 2),
        lateral_offset_m=None if end.lateral_offset_m is None else decimals(end.lateral_offset_m, 1),
        turned_deg=decimals(end.turned_deg, 0),
    )


def _object(thing: ObjectFacts) -> ObjectFacts:
    if thing.distance_m is None or thing.speed_mps is None:
        return thing
    return replace(thing, distance_m=decimals(thing.distance_m, 1), speed_mps=decimals(thing.speed_mps, 1))


def printed_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps as a detailed text states them."""
    printed: list[Step] = []
    losers: tuple[Losers, ...] = ()
    for step, news in zip(steps, news_of([s.lane_changes for s in steps]), strict=True):
        now = _step(step, step.lane_news or news)
        if now.choice is not None:
            choice, losers = _with_losers(now.choice, losers)
            now = replace(now, choice=choice)
        printed.append(now)
    return tuple(printed)


def _with_losers(choice: Choice, before: tuple[Losers, ...]) -> tuple[Choice, tuple[Losers, ...]]:
    """The choice with the losers that a text has said last, if they lose for the same reasons as its own; and those."""
    losers = before if same_reasons(choice.losers, before) else choice.losers
    return replace(choice, losers=losers), losers


def _motion(step: Step) -> Step:
    return Step(
        time_s=decimals(step.time_s, 1),
        speed_mps=decimals(step.speed_mps, 2),
        accel_mps2=decimals(step.accel_mps2, 2),
        lateral_offset_m=None,
        moved_m=None if step.moved_m is None else decimals(step.moved_m, 2),
    )


def _step(step: Step, news: Sequence[LaneVerdict]) -> Step:
    if step.lateral_offset_m is None:  # read from a brief text: there is no more to say
        return _motion(step)
    constraints = with_margins([_constraint(c) for c in step.constraints])
    choice = step.choice or choice_of(step.proposals, step.chosen, step.runner_up)
    return replace(
        _motion(step),
        lateral_offset_m=decimals(step.lateral_offset_m, 1),
        constraints=constraints,
        binding=step.binding,
        tied=step.tied,
        command_mps2=min((c.allows_mps2 for c in constraints), default=None),
        choice=None if choice is None else rounded_choice(choice),
        lane_news=tuple(_rounded_verdict(v) for v in news),
    )


def _constraint(c: Constraint) -> Constraint:
    return replace(
        c,
        inputs={name: decimals(value, places(c.rule, name)) for name, value in c.inputs.items()},
        threshold=decimals(c.threshold, places(c.rule, "threshold")),
        allows_mps2=decimals(c.allows_mps2, places(c.rule, "allows_mps2")),
        margin_mps2=0.0,
    )


def _rounded_motion(motion: Motion) -> Motion:
    return replace(
        motion, offset_m=decimals(motion.offset_m, 1), speed_fraction=decimals(motion.speed_fraction * 100.0, 0) / 100.0
    )


def _rounded_blame(blame: Blame | None) -> Blame | None:
    if blame is None or blame.time_s is None:
        return blame
    return replace(blame, time_s=decimals(blame.time_s, 1))


def _rounded_verdict(v: LaneVerdict) -> LaneVerdict:
    if v.incentive_mps2 is None or v.threshold_mps2 is None:
        return v
    v = replace(v, incentive_mps2=decimals(v.incentive_mps2, 2), threshold_mps2=decimals(v.threshold_mps2, 2))
    if v.follower_accel_mps2 is None or v.safe_accel_mps2 is None:
        return v
    return replace(
        v, follower_accel_mps2=decimals(v.follower_accel_mps2, 2), safe_accel_mps2=decimals(v.safe_accel_mps2, 2)
    )


# ---- as recorded ------------------------------------------------------------------------------------------------------------


def _recorded_proposals(step: Step) -> tuple[Proposal, ...]:
    """The proposals of a step with as few digits as tell the same."""
    if step.chosen is None:
        return tuple(_with_digits(p, DIGITS[0]) for p in step.proposals)
    said = choice_of(step.proposals, step.chosen, step.runner_up)
    assert said is not None, "one is chosen"
    for digits in DIGITS:
        kept = tuple(_with_digits(p, digits) for p in step.proposals)
        ranks = (ranking([p.score for p in kept]), ranking([total(p.terms) for p in kept]))
        again = choice_of(kept, step.chosen, step.runner_up)
        if set(ranks) == {(step.chosen, step.runner_up)} and again and rounded_choice(again) == rounded_choice(said):
            return kept
    return step.proposals


def _with_digits(proposal: Proposal, digits: int) -> Proposal:
    terms = tuple(
        Term(
            name=t.name,
            value=decimals(t.value, digits),
            measured=None if t.measured is None else _measured(t.measured),
            about=t.about,
        )
        for t in proposal.terms
    )
    return replace(
        proposal,
        offset_m=decimals(proposal.offset_m, digits),
        speed_fraction=decimals(proposal.speed_fraction, digits),
        terms=terms,
        score=decimals(total(terms), digits),
    )


def _measured(value: float) -> float:
    """Two decimals, or as many more as it takes to be printed alike."""
    tries = (decimals(value, digits) for digits in (2, *DIGITS))
    return next((kept for kept in tries if decimals(kept, 1) == decimals(value, 1)), value)


def _recorded_changes(steps: Sequence[Sequence[LaneChange]]) -> list[tuple[LaneChange, ...]]:
    said = [[_rounded_verdict(v) for v in news] for news in news_of(steps)]
    for digits in DIGITS:
        kept = [tuple(_change_with_digits(c, digits) for c in changes) for changes in steps]
        if [[_rounded_verdict(v) for v in news] for news in news_of(kept)] == said:
            return kept
    return [tuple(changes) for changes in steps]


def _change_with_digits(change: LaneChange, digits: int) -> LaneChange:
    return replace(
        change,
        incentive_mps2=decimals(change.incentive_mps2, digits),
        threshold_mps2=decimals(change.threshold_mps2, digits),
        follower_accel_mps2=decimals(change.follower_accel_mps2, digits),
        safe_accel_mps2=decimals(change.safe_accel_mps2, digits),
    )
