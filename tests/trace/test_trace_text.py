"""The text of a trace: what is written is read back exactly, whatever a planner decided, and nonsense is refused."""

import json
import random
import re
from dataclasses import replace

import pytest
from deliberations import invent_lane_changes, invent_proposals, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from nsdrive.trace.record import from_json, to_json
from nsdrive.trace.rounding import of_record, recorded, rounded, shortened
from nsdrive.trace.templates import EVALUATIONS, LEVELS, pattern
from nsdrive.trace.text import parse, parse_lines, render
from nsdrive.trace.trace import (
    KIND_WORDS,
    MANOEUVRES,
    N_STEPS,
    SECTORS,
    STEP_S,
    EndState,
    ObjectFacts,
    Phase,
    SceneFacts,
    Step,
    Trace,
)
from nsdrive.world.decision import PATHS, Constraint, arg_min
from nsdrive.world.navigation import TURN_WORDS, Navigation
from nsdrive.world.rules import RULES

THINGS = ("vehicle-2", "vehicle-12", "pedestrian-1", "hidden-3")
SEEDS = st.integers(0, 2**32 - 1)


def settings_for(n: int) -> settings:
    return settings(derandomize=True, deadline=None, max_examples=n)


def invent(seed: int) -> Trace:
    """Any trace that a planner could have caused, and numbers on the edges of rounding."""
    rng = random.Random(seed)
    edges = (0.0, -0.0, -0.001, 0.005, -0.0049, 0.049, -0.05, 1e-9)

    def number(low: float, high: float) -> float:
        return rng.choice(edges) if low < 0.0 and rng.random() < 0.2 else rng.uniform(low, high)

    def about(rule: str) -> str | None:
        words = {
            "track id": ["vehicle", "pedestrian", "hidden"],
            "lane connector id": ["signal"],
            "stop line id": ["stopline"],
        }
        sort = RULES[rule].about
        if rule == "yield" and rng.random() < 0.3:
            return None  # to whom might come
        return None if sort == "nothing" else f"{rng.choice(words[sort])}-{rng.randint(1, 12)}"

    def constraint(rule: str, target: float) -> Constraint:
        inputs = {name: number(-2.0, 150.0) for name in RULES[rule].inputs}
        if rule == "curve_speed":
            inputs["radius_m"] = rng.choice([12.0, 12.04, 30.0])  # often the same again: the short form
        if "crossing" in inputs:
            inputs["crossing"] = float(rng.randint(0, 4))
        threshold = target if rule == "target_speed" else number(-2.0, 150.0)
        return Constraint(
            rule=rule, about=about(rule), inputs=inputs, threshold=threshold, allows_mps2=number(-3.0, 1.0)
        )

    def step(k: int) -> Step:
        rules = ["target_speed", *sorted(rng.sample(sorted(set(RULES) - {"target_speed"}), rng.randint(0, 4)))]
        evaluated = [constraint(rule, rng.choice([13.41, 13.41, 13.414, 10.0])) for rule in rules]
        for c in list(evaluated):  # often what was said of one is true of another
            if c.about is not None and rng.random() < 0.3:
                evaluated.insert(evaluated.index(c) + 1, replace(c, about=about(c.rule)))
        filled, binding, tied = arg_min(evaluated)
        proposals = proposed[k]
        return Step(
            time_s=k * STEP_S,
            speed_mps=abs(number(-40.0, 40.0)),
            accel_mps2=number(-9.0, 9.0),
            lateral_offset_m=number(-4.0, 4.0),
            constraints=filled,
            binding=binding,
            tied=tied,
            command_mps2=min(c.allows_mps2 for c in filled),
            proposals=proposals,
            **outcome(proposals),
            lane_changes=invent_lane_changes(rng, THINGS) if weighs else (),
        )

    weighs = rng.random() < 0.7
    proposed: list[tuple] = []
    for _ in range(N_STEPS):
        motions = [
            (rng.choice(PATHS), rng.choice((0.0, -1.0, 0.5, -0.04)), rng.choice((0.2, 0.29, 1.0)))
            for _ in range(rng.choice((0, 0, 1, 2, 7)))
        ]
        again = bool(proposed) and rng.random() < 0.3
        proposed.append(() if not weighs else proposed[-1] if again else invent_proposals(rng, THINGS, motions))

    def thing() -> ObjectFacts:
        kind, hidden = rng.choice(list(KIND_WORDS.values())), rng.random() < 0.4
        later = hidden and rng.random() < 0.4
        cameras = rng.sample(["CAM_F0", "CAM_L0", "ring_front_left"], rng.randint(0, 3))
        return ObjectFacts(
            name=f"{'hidden' if hidden else kind}-{rng.randint(1, 12)}",
            kind=kind,
            distance_m=None if later else abs(number(-150.0, 150.0)),
            sector=None if later else rng.choice(SECTORS),
            speed_mps=None if later else abs(number(-30.0, 30.0)),
            cameras=() if hidden else tuple(cameras),
        )

    def phase(a: int, b: int) -> Phase:
        rule = rng.choice(list(RULES))
        what = rng.choice(MANOEUVRES)
        path, offset = rng.choice(("keep", *PATHS)), rng.choice((0.0, -0.04, 1.0))
        return Phase(
            start_s=a * STEP_S,
            end_s=b * STEP_S,
            rule=rule,
            about=about(rule),
            manoeuvre=what,
            path=path,
            offset_m=offset,
        )

    command = rng.choice(
        [("follow the road", 0.0), (rng.choice(list(TURN_WORDS.values())), abs(number(-100.0, 100.0)))]
    )
    cuts = sorted(rng.sample(range(1, N_STEPS), rng.randint(0, 4)))
    counted = [(kind, rng.randint(1, 60)) for kind in rng.sample(list(KIND_WORDS.values()), rng.randint(0, 4))]
    return Trace(
        scene=SceneFacts(in_view=tuple(counted), light=rng.choice([None, "green", "amber", "red"])),
        route=Navigation(
            manoeuvre=command[0], distance_m=command[1], speed_limit_mps=rng.choice([None, rng.uniform(1.0, 40.0)])
        ),
        objects=tuple(thing() for _ in range(rng.randint(0, 6))),
        steps=tuple(step(k) for k in range(N_STEPS)),
        end=EndState(
            speed_mps=abs(number(-40.0, 40.0)),
            accel_mps2=number(-9.0, 9.0),
            lateral_offset_m=number(-4.0, 4.0),
            turned_deg=number(-180.0, 180.0),
        ),
        phases=tuple(phase(a, b) for a, b in zip([0, *cuts], [*cuts, N_STEPS], strict=True)),
    )


PATTERNS = {level: re.compile(pattern(level)) for level in LEVELS}


@given(seed=SEEDS)
@settings_for(100)
def test_what_is_written_is_read_back_as_the_trace_rounded_as_printed(seed):
    trace = invent(seed)
    for level in ("brief", "detailed"):
        text = render(trace, level)
        printed = rounded(trace, level)
        assert parse(text) == printed
        assert render(printed, level) == text
        assert rounded(printed, level) == printed
        assert re.search(r"-0(\.0+)?(?![.\d])", text) is None
    assert render(trace, "none") == ""


@given(seed=SEEDS)
@settings_for(100)
def test_the_grammar_for_constrained_decoding_matches_every_text(seed):
    for level in ("brief", "detailed"):
        assert PATTERNS[level].fullmatch(render(invent(seed), level))


@given(seed=SEEDS)
@settings_for(60)
def test_json_keeps_a_trace_exactly(seed):
    trace = invent(seed)
    for kept in (trace, rounded(trace, "brief"), rounded(trace, "detailed"), recorded(trace)):
        assert from_json(json.loads(json.dumps(to_json(kept), allow_nan=False))) == kept


@given(seed=SEEDS)
@settings_for(25)
def test_a_record_tells_the_detailed_text(seed):
    trace = invent(seed)
    told = of_record(recorded(trace))
    assert render(told, "detailed") == render(trace, "detailed")
    assert shortened(told).steps == rounded(trace, "detailed").steps


@given(seed=SEEDS, place=st.floats(0.0, 1.0, exclude_max=True))
@settings_for(25)
def test_every_line_is_read_and_what_stands_above_a_broken_one_stays_read(seed, place):
    trace = invent(seed)
    for level in ("brief", "detailed"):
        text = render(trace, level)
        whole = parse_lines(text)
        assert (whole.trace, whole.error, whole.error_line) == (parse(text), None, None)
        assert [line.number for line in whole.lines] == list(range(1, text.count("\n") + 2))
        lines = text.split("\n")
        at = int(place * len(lines))
        broken = parse_lines("\n".join([*lines[:at], "and so on", *lines[at + 1 :]]))
        assert broken.trace is None
        assert broken.error is not None
        assert broken.error.startswith(f"line {broken.error_line}, column ")
        assert broken.lines == whole.lines[: len(broken.lines)]
        # the line itself; or the one before it that it makes senseless, as half a second with nothing that binds
        assert broken.error_line == at + 1
        assert len(broken.lines) == at


@given(
    seed=SEEDS, place=st.floats(0.0, 1.0, exclude_max=True), put=st.sampled_from(["", "x", "9", " ", "\n", "-", "."])
)
@settings_for(120)
def test_a_damaged_text_is_refused_or_means_something_else(seed, place, put):
    trace = invent(seed)
    for level in ("brief", "detailed"):
        text = render(trace, level)
        at = int(place * len(text))
        damaged = text[:at] + put + text[at + 1 :]
        refusal = ""
        try:
            means_the_same = parse(damaged) == rounded(trace, level)
        except ValueError as error:
            refusal, means_the_same = str(error), False
        assert means_the_same == (damaged == text)
        assert refusal == "" or re.match(r"(line \d+, column \d+: |the text ends after line \d+; )", refusal)


@given(text=st.text(max_size=200))
@settings_for(150)
def test_garbage_is_refused_with_the_place_where_reading_stopped(text):
    with pytest.raises(ValueError, match=r"line 1, column \d+"):
        parse(text)


def test_an_error_names_the_line_and_column_that_cannot_be_read():
    text = render(_plain_trace(), "detailed").split("\n")
    line = next(i for i, words in enumerate(text) if words.startswith("target_speed"))
    broken = "\n".join([*text[:line], text[line].replace("allows", "permits"), *text[line + 1 :]])
    with pytest.raises(ValueError, match=rf"line {line + 1}, column 19: cannot read 'target_speed 13.41 permits"):
        parse(broken)
    with pytest.raises(ValueError, match=r"the text ends after line 5"):
        parse("\n".join(text[:5]))


def test_two_binding_evaluations_are_refused():
    text = render(_plain_trace(), "detailed").replace(" binds", "", 1)
    with pytest.raises(ValueError, match=r"0 of 1 evaluations above bind at 0\.0 s"):
        parse(text)


def test_every_rule_has_a_template_that_prints_all_its_inputs():
    assert list(EVALUATIONS) == list(RULES)
    for rule, template in EVALUATIONS.items():
        fields = {name for name, _ in template.fields}
        assert fields == {*RULES[rule].inputs, "threshold", "allows_mps2", "mark"} | (
            {"about"} if RULES[rule].about != "nothing" else set()
        )


def test_an_unknown_level_says_which_are_known():
    with pytest.raises(ValueError, match=r"No trace level 'full'\. Known: none, brief, detailed"):
        render(_plain_trace(), "full")


def test_a_brief_text_cannot_be_rendered_in_detail():
    with pytest.raises(ValueError, match="no evaluations"):
        render(parse(render(_plain_trace(), "brief")), "detailed")


def _plain_trace() -> Trace:
    free = Constraint(rule="target_speed", about=None, inputs={}, threshold=13.41, allows_mps2=0.5)
    return Trace(
        scene=SceneFacts(in_view=(), light=None),
        route=Navigation(manoeuvre="follow the road", distance_m=0.0, speed_limit_mps=13.41),
        objects=(),
        steps=tuple(
            Step(
                time_s=k * STEP_S,
                speed_mps=8.0,
                accel_mps2=0.0,
                lateral_offset_m=0.0,
                constraints=(free,),
                binding=0,
                command_mps2=0.5,
            )
            for k in range(N_STEPS)
        ),
        end=EndState(speed_mps=8.0, accel_mps2=0.0, lateral_offset_m=0.0, turned_deg=0.0),
        phases=(Phase(start_s=0.0, end_s=5.0, rule="target_speed", about=None, manoeuvre="keep speed"),),
    )
