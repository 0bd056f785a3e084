"""A text's lines are true or false by the scene: the planner's own text is true to its last line, one lie is found where it is."""

import json
from dataclasses import replace

import numpy as np
import pytest
from labelled import TEACHERS, in_brief, labelled, retold, text_of, with_step, with_text, without_rule

from eval.faithfulness.observed.claims import KINDS, MAX_CHARS, judge_text, reasoning_of
from eval.faithfulness.observed.objects import match_objects
from eval.faithfulness.observed.tolerances import TOLERANCES, within
from eval.faithfulness.observed.truth import TEACHERS as LAWS
from eval.faithfulness.observed.truth import Thing, parameters_of, truth_of
from nsdrive.config import Chosen, to_plain
from nsdrive.scenarios.synthetic import FAMILIES
from nsdrive.trace.trace import SECTORS, ObjectFacts
from nsdrive.vla.prompt import render_answer

FEW = ("free_road", "stopped_lead", "red_light", "pedestrian_crosswalk")
ONE = ("stopped_lead",)


@pytest.fixture(scope="module")
def samples():
    return labelled("idm", FEW, anchors=2)


@pytest.fixture(scope="module")
def behind_a_lead(samples):
    """One whose text evaluates a lead that is not beyond everybody's sight, in every step."""
    return next(
        s for s in samples if all(any(c["rule"] == "lead" for c in step["constraints"]) for step in s.trace["steps"])
    )


def wrong(judged):
    """The lines of which something is false, and what is missing."""
    return {c.line for c in judged.claims if c.verdict == "false"}, [c.kind for c in judged.missing]


def assert_all_true(sample):
    judged = judge_text(sample, sample.answer)
    assert judged.readable, judged.error
    assert [c for c in judged.claims if c.verdict != "true"] == []
    assert judged.missing == ()
    assert set(judged.lines()) == set(range(1, text_of(sample).count("\n") + 2))
    return judged


def line_of(answer, beginning, after=0):
    lines = reasoning_of(answer)[0].split("\n")
    return next(n for n, line in enumerate(lines, start=1) if n > after and line.startswith(beginning))


def fits_nobody(sample, thing):
    return not match_objects([thing], truth_of(sample).around)[0].fits


# ---- the planner's own text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_planners_own_text_is_true_in_every_line(teacher):
    for sample in labelled(teacher, FEW if teacher == "idm" else ONE, anchors=2 if teacher == "idm" else 1):
        assert {c.kind for c in assert_all_true(sample).claims} <= set(KINDS)
        assert_all_true(in_brief(sample))


@pytest.mark.slow
@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_texts_of_all_families_are_true_and_each_lie_in_them_is_found(teacher):
    for sample in labelled(teacher, tuple(FAMILIES), anchors=3):
        assert_all_true(sample)
        assert_all_true(in_brief(sample))
        for lie in (changed_gap, swapped_sector, dropped_rule, invented_pedestrian):
            told = lie(sample)
            if told is not None:
                answer, line, missing = told
                assert wrong(judge_text(sample, answer)) == ({line} - {None}, missing), (sample.sample_id, lie.__name__)


# ---- one lie -----------------------------------------------------------------------------------------------------------------


def steps_of(sample):
    return judge_text(sample, sample.answer).reading.trace.steps


def changed_gap(sample):
    """A gap that is a third more, in the first step that says one of the lead's or the path's end."""
    lines = judge_text(sample, sample.answer).reading.lines
    told = [line for line in lines if line.kind == "evaluation" and line.fields.get("gap_m") is not None]
    steps = steps_of(sample)
    once = [line for line in told if [c.rule for c in steps[line.step].constraints].count(line.means.rule) == 1]
    if not once:
        return None
    k, rule = once[0].step, once[0].means.rule

    def change(trace):
        changed = [
            replace(c, inputs={**c.inputs, "gap_m": round(c.inputs["gap_m"] * 1.3 + 3.0, 1)}) if c.rule == rule else c
            for c in trace.steps[k].constraints
        ]
        return with_step(trace, k, constraints=tuple(changed))

    return retold(sample, change), once[0].number, []


def swapped_sector(sample):
    """The first object of which that is not true of someone else is said to be on the other side."""
    for i, match in enumerate(judge_text(sample, sample.answer).ledger.matches):
        other = SECTORS[(SECTORS.index(match.claimed.sector) + 4) % 8]
        if fits_nobody(sample, replace(match.claimed, sector=other)):
            return retold(sample, lambda trace, i=i, other=other: with_object(trace, i, sector=other)), 3 + i, []
    return None


def with_object(trace, i, **changes):
    return replace(trace, objects=(*trace.objects[:i], replace(trace.objects[i], **changes), *trace.objects[i + 1 :]))


def dropped_rule(sample):
    """The first rule that does not bind is left out where it is first evaluated."""
    for k, step in enumerate(steps_of(sample)):
        for i, c in enumerate(step.constraints):
            if i != step.binding and i not in step.tied and c.rule != "target_speed":
                return retold(sample, lambda trace, k=k, i=i: without_rule(trace, k, i)), None, ["rule"]
    return None


def invented_pedestrian(sample):
    """Someone who is not there, the last of the objects."""
    nobody = ObjectFacts(
        name="pedestrian-77",
        kind="pedestrian",
        distance_m=27.3,
        sector="behind-left",
        speed_mps=1.3,
        cameras=("CAM_L0",),
    )
    if not fits_nobody(sample, nobody):
        return None
    answer = retold(sample, lambda trace: replace(trace, objects=(*trace.objects, nobody)))
    if "pedestrian-77" not in answer:  # a text that is too long otherwise leaves out whom no rule speaks of
        return None
    return answer, line_of(answer, "pedestrian-77"), []


@pytest.mark.parametrize("lie", [changed_gap, swapped_sector, dropped_rule, invented_pedestrian])
def test_one_lie_is_the_only_thing_that_is_wrong(lie, samples):
    told = [(sample, told) for sample in samples if (told := lie(sample)) is not None]
    assert len(told) >= 2
    for sample, (answer, line, missing) in told:
        assert wrong(judge_text(sample, answer)) == ({line} - {None}, missing), sample.sample_id


def test_what_is_so_is_said_beside_the_lie(behind_a_lead):
    answer, line, _ = swapped_sector(behind_a_lead)
    claim = next(c for c in judge_text(behind_a_lead, answer).claims if c.line == line and c.kind == "object")
    meant = judge_text(behind_a_lead, behind_a_lead.answer).ledger.matches[line - 3]
    assert claim.verdict == "false"
    assert claim.about == meant.thing.thing_id
    assert meant.claimed.sector in claim.truth


def test_a_false_speed_is_blamed_once_and_what_rests_on_it_is_unknown(behind_a_lead):
    answer = retold(behind_a_lead, lambda trace: with_step(trace, 4, speed_mps=trace.steps[4].speed_mps + 4.0))
    judged = judge_text(behind_a_lead, answer)
    assert wrong(judged) == ({line_of(answer, "2.0 speed")}, [])
    assert {c.kind for c in judged.claims if c.verdict == "unknown"} == {"arithmetic"}


def test_a_number_that_is_said_once_and_wrong_is_blamed_once(behind_a_lead):
    lines = text_of(behind_a_lead).split("\n")
    n = next(i for i, line in enumerate(lines) if line.startswith("target_speed"))
    assert sum(line.startswith("target_speed 1") for line in lines) == 1  # the target is said once, for all steps
    words = lines[n].split(" ")
    lines[n] = " ".join([words[0], f"{float(words[1]) + 5.0:.2f}", *words[2:]])
    answer = with_text(behind_a_lead, "\n".join(lines)).answer
    assert wrong(judge_text(behind_a_lead, answer)) == ({n + 1}, [])


def test_a_rule_that_is_said_to_bind_and_does_not_is_one_false_claim(samples):
    for sample in samples:
        step = judge_text(sample, sample.answer).reading.trace.steps[2]
        far = [i for i, c in enumerate(step.constraints) if c.margin_mps2 > 0.5]
        if far:
            answer = retold(sample, lambda trace, i=far[0]: with_step(trace, 2, binding=i, tied=()))
            false = [c for c in judge_text(sample, answer).claims if c.verdict == "false"]
            assert [c.kind for c in false] == ["binding"]
            assert step.constraints[step.binding].rule in false[0].truth
            return
    pytest.fail("no sample has a rule that is far from binding")


def test_an_invented_rule_is_false_and_its_arithmetic_may_still_be_right(behind_a_lead):
    judged = judge_text(behind_a_lead, behind_a_lead.answer)
    lead = next(c for c in judged.reading.trace.steps[0].constraints if c.rule == "lead")
    stop = replace(lead, rule="red_light", about="signal-9", inputs={"gap_m": 180.0}, threshold=1.0)
    step = judged.reading.trace.steps[0]
    answer = retold(behind_a_lead, lambda trace: with_step(trace, 0, constraints=(*step.constraints, stop)))
    claims = [c for c in judge_text(behind_a_lead, answer).claims if c.line == line_of(answer, "red_light")]
    assert {c.kind: c.verdict for c in claims}["rule"] == "false"
    assert "not evaluated" in next(c.truth for c in claims if c.kind == "rule")


def test_wrong_light_count_and_route_are_one_claim_each(behind_a_lead):
    lines = text_of(behind_a_lead).split("\n")
    lines[0] = lines[0].replace("in view", "in view").replace("light none", "light red")
    lines[0] = (
        lines[0].replace("Scene: ", "Scene: 50 barriers, ")
        if "nothing" not in lines[0]
        else "Scene: 50 barriers in view, light red"
    )
    lines[1] = "Route: turn left now, limit 3.00 m/s"
    judged = judge_text(behind_a_lead, with_text(behind_a_lead, "\n".join(lines)).answer)
    assert [c.kind for c in judged.claims if c.verdict == "false"] == ["count", "light", "route", "route"]


def test_a_brief_text_is_wrong_where_its_phase_or_its_speeds_are(samples):
    sample = in_brief(next(s for s in samples if s.binding_rule == "target_speed"))
    lines = text_of(sample).split("\n")
    n = next(i for i, line in enumerate(lines) if line.startswith("until"))
    renamed = [*lines[:n], lines[n].replace("target_speed", "path_end"), *lines[n + 1 :]]
    judged = judge_text(sample, with_text(sample, "\n".join(renamed)).answer)
    assert [(c.line, c.kind) for c in judged.claims if c.verdict == "false"] == [(n + 1, "binding")]
    n = next(i for i, line in enumerate(lines) if line.startswith("speed"))
    speeds = lines[n].split(" ")
    slower = [*lines[:n], " ".join([*speeds[:6], "0.33", *speeds[7:]]), *lines[n + 1 :]]
    judged = judge_text(sample, with_text(sample, "\n".join(slower)).answer)
    assert [(c.line, c.kind, c.said) for c in judged.claims if c.verdict == "false"] == [
        (n + 1, "state", "0.33 m/s in 2.5 s")
    ]


# ---- whom a text means -------------------------------------------------------------------------------------------------------


def test_names_are_the_texts_own(samples):
    for sample in samples:
        text = text_of(sample)
        for number in range(60, 0, -1):
            for word in ("vehicle", "pedestrian", "signal"):
                text = text.replace(f"{word}-{number} ", f"{word}-{number + 300} ")
        judged = judge_text(sample, with_text(sample, text).answer)
        assert wrong(judged) == (set(), [])
        assert "unknown" not in judged.lines().values()


def test_two_objects_are_not_one_and_the_same():
    thing = Thing(
        thing_id="car-3", kind="vehicle", distance_m=20.0, bearing_rad=0.0, sector="ahead", speed_mps=5.0, cameras=()
    )
    said = ObjectFacts(name="vehicle-1", kind="vehicle", distance_m=20.4, sector="ahead", speed_mps=5.0, cameras=())
    twice = match_objects([said, replace(said, name="vehicle-2", distance_m=20.1)], [thing])
    assert [m.fits for m in twice] == [False, True]


def test_as_many_objects_as_possible_find_their_partner():
    def thing(name, distance_m):
        return Thing(
            thing_id=name,
            kind="vehicle",
            distance_m=distance_m,
            bearing_rad=0.0,
            sector="ahead",
            speed_mps=5.0,
            cameras=(),
        )

    def said(distance_m):
        return ObjectFacts(
            name="vehicle-1", kind="vehicle", distance_m=distance_m, sector="ahead", speed_mps=5.0, cameras=()
        )

    # the nearest fit of both is b, but one of them fits a as well
    matches = match_objects([said(21.4), said(22.8)], [thing("a", 20.0), thing("b", 21.7)])
    assert [(m.fits, m.thing.thing_id) for m in matches] == [(True, "a"), (True, "b")]


# ---- what cannot be read or is not known -------------------------------------------------------------------------------------


def test_a_broken_line_is_unknown_with_the_reason_and_the_lines_above_are_judged(behind_a_lead):
    lines = text_of(behind_a_lead).split("\n")
    n = next(i for i, line in enumerate(lines) if line.startswith("1.0 speed"))
    broken = [*lines[:n], "then we slow down", *lines[n + 1 :]]
    judged = judge_text(behind_a_lead, with_text(behind_a_lead, "\n".join(broken)).answer)
    verdicts = judged.lines()
    assert [verdicts[k] for k in range(1, n + 1)] == ["true"] * n
    assert {verdicts[k] for k in range(n + 1, len(lines) + 1)} == {"unknown"}
    assert judged.error_line == n + 1
    reason = next(c for c in judged.claims if c.line == n + 1)
    assert (reason.kind, reason.said) == ("unread", "then we slow down")
    assert reason.truth == judged.error
    assert judged.missing == ()


@pytest.mark.parametrize(
    "text",
    [
        "The light is red, so we stop.",
        "前方红灯\u2028减速",
        "\ud800",
        "Scene:",
        "\x00\x1b[31m" * 1000,
        "<script>alert(1)</script>",
        "Scene: nothing in view, light none\nRoute: follow the road, limit not known\n"
        + "vehicle-1 5.0 m ahead, stands\n" * 40_000,
        "<REASONING>" * 100_000,
        "vehicle-1 " * 100_000,
        "\n" * 1_000_000,
        "speed " + "1.00 " * 200_000,
    ],
    ids=range(11),
)
def test_any_text_is_harmless(text, behind_a_lead):
    judged = judge_text(behind_a_lead, f"<REASONING>{text}")
    assert not judged.readable
    assert "false" not in judged.lines().values() or "vehicle-1" in text
    assert len(judged.claims) < 1000
    json.dumps([c.said + c.truth for c in judged.claims], ensure_ascii=False).encode()
    assert MAX_CHARS < 1e6


def test_absurd_numbers_are_false_and_break_nothing(behind_a_lead):
    absurd = (("gap 1", "gap -99999.9 1"), ("speed", "speed 99999.99 accel -99999.99\nx"), ("allows ", "allows -99999"))
    for old, new in absurd:
        judge_text(behind_a_lead, behind_a_lead.answer.replace(old, new))
    text = text_of(behind_a_lead).replace(
        "target_speed", "curve_speed 9.0 in -50.0 radius -12.0 allows 0.50\ntarget_speed", 1
    )
    judged = judge_text(behind_a_lead, with_text(behind_a_lead, text).answer)
    assert "its inputs make no sense to the law" in [c.truth for c in judged.claims]


def test_an_answer_without_reasoning_claims_nothing(behind_a_lead):
    for answer in ("", render_answer("", behind_a_lead.waypoints_ego_m), "<REASONING>  </REASONING>"):
        judged = judge_text(behind_a_lead, answer)
        assert (judged.reasoning, judged.claims, judged.missing) == (None, (), ())


def test_data_without_objects_leave_unknown_objects_unknown(behind_a_lead):
    older = replace(behind_a_lead, extra={k: v for k, v in behind_a_lead.extra.items() if k != "objects"})
    assert wrong(judge_text(older, older.answer)) == (set(), [])
    answer, line, _ = invented_pedestrian(behind_a_lead)
    assert judge_text(older, answer).lines()[line] == "unknown"


def test_a_sample_that_lacks_everything_makes_nothing_true(behind_a_lead):
    bare = replace(behind_a_lead, trace={}, trace_names={}, extra={}, future=np.zeros((0, 5)))
    judged = judge_text(bare, bare.answer)
    assert {c.kind for c in judged.claims if c.verdict == "true"} == {"route", "arithmetic"}
    assert "false" not in judged.lines().values()
    misshapen = replace(behind_a_lead, trace={"scene": 3}, extra={"objects": [{"id": 1}], "seen": []})
    assert "false" not in judge_text(misshapen, misshapen.answer).lines().values()


def test_a_text_under_a_humans_waypoints_is_held_to_the_motion_that_it_explains(behind_a_lead):
    elsewhere = behind_a_lead.future + np.array([0.0, 0.0, 0.0, 5.0, 1.0])
    human = replace(
        behind_a_lead,
        future=elsewhere,
        extra={**behind_a_lead.extra, "label": "human", "explained": behind_a_lead.future.tolist()},
    )
    assert_all_true(human)
    taken_as_its_own = replace(behind_a_lead, future=elsewhere)
    assert "false" in judge_text(taken_as_its_own, taken_as_its_own.answer).lines().values()


# ---- tolerances and laws -----------------------------------------------------------------------------------------------------


def test_what_rounds_alike_is_within_every_tolerance_and_every_one_has_a_reason():
    assert all(len(limit.why) > 10 for limit in TOLERANCES.values())
    assert within("distance_m", 12.4, 12.44) < 1.0 < within("distance_m", 12.4, 14.0)
    assert within("distance_m", 55.0, 50.0) <= 1.0 < within("distance_m", 55.1, 50.0)
    assert within("count", 3, 3) == 0.0
    assert within("count", 3, 4) == float("inf")


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_laws_constants_are_the_planners_own(teacher):
    config = TEACHERS[teacher]().config
    assert vars(LAWS[teacher]) == {name: getattr(config, name) for name in vars(LAWS[teacher])}
    assert parameters_of({"planner": to_plain(Chosen(name=teacher, config=config))}) == LAWS[teacher]
    told = {"planner": to_plain(Chosen(name=teacher, config=replace(config, headway_s=1.0)))}
    assert parameters_of(told).headway_s == 1.0
    assert parameters_of({"planner": teacher}) == LAWS[teacher]
    assert parameters_of({}) is None
