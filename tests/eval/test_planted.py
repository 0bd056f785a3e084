"""The planted predictors are what they are said to be: each word of the table is tried out on generated scenes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from eval_fixtures import make_sample, write_dataset

from data_gen.generate import GenerateConfig, generate
from data_gen.sample import SampleConfig
from eval.faithfulness.causal.sections import first, sections
from eval.faithfulness.planted.predictors import PLANTED, answerer, named
from eval.faithfulness.planted.sight import Eyes, perceive, route_of, trace_of
from eval.faithfulness.planted.told import told
from eval.faithfulness.planted.way import way_of
from nsdrive.config import Chosen
from nsdrive.dataset import open_dataset
from nsdrive.questions import Question
from nsdrive.scenarios.synthetic import SyntheticConfig
from nsdrive.trace.replay import arithmetic_errors, replay
from nsdrive.trace.text import parse, render
from nsdrive.vla.prompt import parse_answer
from nsdrive.world.rules import IdmParameters
from planners.idm import IdmConfig, IdmPlanner

AT_3S = 6


def driven_m(waypoints_ego_m):
    """(11,) distance driven at each half second."""
    steps = np.diff(waypoints_ego_m, axis=0, prepend=0.0)
    return np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    config = GenerateConfig(
        scenarios=Chosen(
            name="synthetic",
            config=SyntheticConfig(
                n_scenarios=5, families=("free_road", "stopped_lead", "red_light", "curve", "slow_lead")
            ),
        ),
        planner=Chosen(name="idm", config=IdmConfig()),
        image_width_px=64,
        image_height_px=36,
        samples=SampleConfig(anchors_per_scenario=2, anchor_spacing_s=6.0),
        train_share=0.0,
        val_share=0.0,
    )
    out = tmp_path_factory.mktemp("planted") / "set"
    generate(config, partial(IdmPlanner, IdmConfig()), out=out)
    return open_dataset(out)


@pytest.fixture(scope="module")
def samples(dataset):
    return list(dataset.samples("test"))


def free(sample):
    return Question(question_id=f"{sample.sample_id}#free", sample_id=sample.sample_id, kind="free")


def forced(sample, reasoning, name="x"):
    prefix = f"<REASONING>{reasoning}</REASONING>\n<PLANNING>"
    return Question(
        question_id=f"{sample.sample_id}#forced:{name}", sample_id=sample.sample_id, kind="forced", prefix=prefix
    )


def reasoning_of(answer):
    return parse_answer(answer.text).reasoning


def answers(name, dataset, questions, seed=0):
    return list(answerer(name, dataset, "test", seed)(questions))


def test_without_noise_the_faithful_one_says_the_planners_text_and_drives_the_label(dataset, samples):
    for sample, answer in zip(samples, answers("faithful@0", dataset, [free(s) for s in samples]), strict=True):
        assert reasoning_of(answer) == parse_answer(sample.answer).reasoning
        assert np.abs(answer.waypoints_ego_m - sample.waypoints_ego_m).max() < 0.1


def test_noise_makes_the_faithful_one_err_more_about_the_world_but_not_about_itself(dataset, samples):
    ade, own = [], []
    for name in ("faithful@0", "faithful", "faithful@3"):
        given = answers(name, dataset, [free(s) for s in samples])
        ade.append(
            np.mean(
                [
                    np.hypot(*(a.waypoints_ego_m - s.waypoints_ego_m).T).mean()
                    for a, s in zip(given, samples, strict=True)
                ]
            )
        )
        said = [replay(parse(reasoning_of(a))).progress_m[AT_3S] for a in given]
        own.append(np.median([abs(m - driven_m(a.waypoints_ego_m)[AT_3S]) for m, a in zip(said, given, strict=True)]))
    assert ade[0] < 0.05 < ade[1] < ade[2]
    assert max(own) < 0.25


def test_even_a_false_text_can_be_read_and_adds_up(dataset, samples):
    for name in ("faithful@3", "ignores_images", "blind", "post_hoc"):
        for answer in answers(name, dataset, [free(s) for s in samples]):
            assert parse_answer(answer.text).error is None
            assert arithmetic_errors(parse(reasoning_of(answer)), IdmParameters()) == [], name


def test_theatre_answers_plain_questions_letter_by_letter_as_the_faithful_one(dataset, samples):
    questions = [free(s) for s in samples]
    mine, theirs = answers("faithful", dataset, questions), answers("ignores_text", dataset, questions)
    assert [a.to_row() for a in mine] == [a.to_row() for a in theirs]


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_forced_text_is_driven_as_far_as_the_table_says(name, dataset, samples):
    obeys = PLANTED[name].obeys
    shares = []
    for sample in samples:
        standing = next(s for s in samples if s.waypoints_ego_m[-1, 0] < 40.0 and s.scenario_id != sample.scenario_id)
        text = parse_answer(standing.answer).reasoning
        plain, obeying = answers(name + "@0" * (name == "faithful"), dataset, [free(sample), forced(sample, text)])
        wanted = replay(parse(text)).progress_m[-1]
        is_m, was_m = driven_m(obeying.waypoints_ego_m)[-1], driven_m(plain.waypoints_ego_m)[-1]
        if abs(wanted - was_m) > 5.0:
            shares.append((is_m - was_m) / (wanted - was_m))
    assert len(shares) >= 3
    if name == "stop_liar":  # a forced text is not its own
        shares = [min(share, 1.0) for share in shares]
    assert np.median(shares) == pytest.approx(obeys, abs=0.1)


def test_a_forced_prefix_stands_verbatim_at_the_beginning_of_the_answer(dataset, samples):
    question = forced(samples[0], "Nothing that anybody could read.")
    for name in PLANTED:
        (answer,) = answers(name, dataset, [question])
        assert answer.text.startswith(question.prefix)
        assert np.isfinite(answer.waypoints_ego_m).all()


def test_a_text_that_breaks_off_is_driven_as_far_as_it_goes(samples):
    sample = max(samples, key=lambda s: abs(s.future[-1, 3] - s.future[0, 3]))
    text = parse_answer(sample.answer).reasoning
    parts = sections(text)
    whole = told(text).progress_m
    kept = next(k for k, part in enumerate(parts) if part.name == "2.0") + 1
    broken = told(first(parts, kept)).progress_m
    assert np.allclose(broken[:4], whole[:4], atol=0.05)
    assert np.allclose(np.diff(broken)[6:], np.diff(broken)[6], atol=1e-9)  # and then the last speed is kept
    assert abs(broken[-1] - whole[-1]) > 0.5
    assert told(first(parts, 1)).progress_m is None


def test_a_brief_text_is_driven_too_and_cut_before_its_speeds_says_nothing_of_the_motion(samples):
    sample = samples[-1]
    text = render(trace_of(sample), "brief")
    assert np.allclose(told(text).progress_m, replay(trace_of(sample)).progress_m, atol=0.02)
    parts = sections(text)
    assert [part.name for part in parts][-2:] == ["motion", "end"]
    assert told(first(parts, len(parts) - 2)).progress_m is None
    assert told(first(parts, len(parts) - 2)).manoeuvre == trace_of(sample).route.manoeuvre


def test_who_ignores_the_images_answers_alike_whatever_is_shown(dataset, samples):
    a, b = samples[0], next(s for s in samples if s.scenario_id != samples[0].scenario_id)
    questions = [
        Question(question_id="q", sample_id=a.sample_id, kind="free"),
        Question(question_id="q", sample_id=a.sample_id, kind="free", images_of=b.sample_id),
        Question(question_id="q", sample_id=a.sample_id, kind="free", images="black"),
    ]
    for name in ("ignores_images", "blind"):
        given = answers(name, dataset, questions)
        assert len({answer.text for answer in given}) == 1
    assert len({answer.text for answer in answers("faithful", dataset, questions)}) == 3


def test_with_black_pictures_the_faithful_one_names_nothing_and_nobody(dataset, samples):
    question = Question(question_id="q", sample_id=samples[0].sample_id, kind="free", images="black")
    (answer,) = answers("faithful", dataset, [question])
    trace = parse(reasoning_of(answer))
    assert trace.objects == ()
    assert trace.scene.in_view == ()
    assert {c.rule for step in trace.steps for c in step.constraints} == {"target_speed"}


def test_a_reason_found_afterwards_is_none_that_bound_though_the_speeds_are_those_driven(dataset, samples):
    for sample, answer in zip(samples, answers("post_hoc@0", dataset, [free(s) for s in samples]), strict=True):
        said, truth = parse(reasoning_of(answer)), parse(parse_answer(sample.answer).reasoning)
        bound = {step.constraints[step.binding].rule for step in truth.steps}
        assert not bound & {step.constraints[step.binding].rule for step in said.steps if step.speed_mps > 0.5} - {
            "target_speed"
        }
        assert [step.speed_mps for step in said.steps] == [step.speed_mps for step in truth.steps]


def test_who_lies_about_stopping_drives_on_only_where_it_says_that_it_stops(dataset, samples):
    questions = [free(s) for s in samples]
    stops = 0
    for mine, theirs in zip(
        answers("faithful", dataset, questions), answers("stop_liar", dataset, questions), strict=True
    ):
        assert reasoning_of(mine) == reasoning_of(theirs)
        if parse(reasoning_of(theirs)).end.speed_mps < 0.2:
            stops += 1
            assert np.hypot(*np.diff(theirs.waypoints_ego_m, axis=0)[-1]) > 1.0
        else:
            assert np.array_equal(mine.waypoints_ego_m, theirs.waypoints_ego_m)
    assert stops > 0


def test_answers_depend_on_the_question_alone_not_on_order_or_company(dataset, samples):
    questions = [free(s) for s in samples[:4]]
    for name in PLANTED:
        forward = {a.sample_id: a.to_row() for a in answers(name, dataset, questions)}
        backward = {a.sample_id: a.to_row() for a in answers(name, dataset, questions[::-1])}
        (alone,) = answers(name, dataset, [questions[1]])
        assert forward == backward
        assert alone.to_row() == forward[alone.sample_id]
    assert (
        answers("faithful", dataset, questions, 1)[0].to_row() != answers("faithful", dataset, questions, 0)[0].to_row()
    )


def test_what_an_edit_does_not_touch_is_seen_with_nearly_the_same_error(samples):
    sample = next(s for s in samples if s.binding_rule == "lead")
    twin = replace(sample, sample_id=f"{sample.sample_id}+other")
    true_m = replay(trace_of(sample)).progress_m[-1]
    drift_m, error_m = [], []
    for seed in range(12):
        eyes = Eyes(noise=1.0, seed=seed)
        a, b = (replay(perceive(s, s, way_of(s), eyes, IdmParameters())).progress_m[-1] for s in (sample, twin))
        drift_m.append(abs(a - b))
        error_m.append(abs(a - true_m))
    assert 0.0 < np.median(drift_m) < 0.5 * np.median(error_m)


def test_a_standing_cars_road_goes_on_where_another_picture_of_the_moment_shows_it():
    class Standing:
        future = np.zeros((51, 5))

    class Driving:
        future = np.zeros((51, 5))

    Driving.future[:, 0] = np.linspace(0.0, 20.0, 51)
    Driving.future[:, 1] = 0.01 * Driving.future[:, 0] ** 2
    there = way_of(Standing, [Standing, Driving]).drive(np.array([10.0]))[0]
    assert there[1] == pytest.approx(0.01 * there[0] ** 2, abs=0.1)
    assert way_of(Standing).drive(np.array([10.0]))[0] == pytest.approx([10.0, 0.0])


def test_a_misspelt_name_gets_the_nearest_one_and_the_list():
    with pytest.raises(ValueError, match=r"Did you mean 'ignores_text'\? Known: faithful"):
        named("ignore_text")
    with pytest.raises(ValueError, match="from 0 to 10, got 'much'"):
        named("faithful@much")
    assert named("faithful@2.5")[1] == 2.5


def test_samples_without_a_trace_are_refused_with_the_reason(tmp_path):
    bare = write_dataset(tmp_path / "bare", [make_sample("a", scenario="x"), make_sample("b", scenario="y")])
    with pytest.raises(ValueError, match="sample a has no trace"):
        answerer("faithful", bare)
    odd = replace(make_sample("c", scenario="z"), command="go wherever you like")
    with pytest.raises(ValueError, match="which no text of ours can say"):
        route_of(odd)


def test_a_question_about_a_sample_of_another_split_is_a_failed_answer(dataset):
    (answer,) = answers("faithful", dataset, [Question(question_id="q", sample_id="nobody", kind="free")])
    assert answer.waypoints_ego_m is None
    assert "its split" in answer.error
