"""The file of questions and answers: what is asked, what survives a kill, and what a stranger may have done to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_fixtures import make_sample, reasoning_text, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.faithfulness.causal import probes as module
from eval.faithfulness.causal.given import MISSING, NO_PREFIX, NO_ROW, OTHERWISE, REPEATED, TWICE, UNKNOWN_ID, UNUSABLE
from eval.faithfulness.causal.measures import causal, pair_scores
from eval.faithfulness.causal.pairs import groups_of, stage_one, stage_two
from eval.faithfulness.causal.probes import from_answers, read_probes, run_probes, write_stage
from eval.faithfulness.causal.sections import MAX_SECTIONS, first, sections, swapped
from nsdrive.cli import main
from nsdrive.dataset import Dataset, Prediction, Sample
from nsdrive.questions import Question, read_questions
from nsdrive.vla.prompt import parse_answer, render_answer

DETAILED = """Scene: 2 vehicles in view, light none
Route: follow the road, limit 13.41 m/s
vehicle-1 12.4 m ahead, 5.1 m/s, F0
0.0 speed 8.31 accel -0.52
target_speed 13.41 allows 0.85
lead vehicle-1 gap 12.4 speed 5.1 needs 18.3 allows -1.22 binds
0.5 speed 7.85 accel -1.10
lead gap 11.1 allows -1.40 binds
5.0 speed 4.20 accel -0.10
turned 0 deg"""


def pair_samples(n: int = 3) -> list[Sample]:
    samples = []
    for i in range(n):
        before = explained(f"s{i}", f"scene-{i}", 8.0 + i, -1.5 + 0.25 * i, "lead")
        after = explained(f"s{i}+remove-lead", f"scene-{i}", 8.0 + i, 0.0, "target_speed")
        edit = {"of": before.sample_id, "name": "remove-lead", "words": "car-1 is gone", "about": "car-1"}
        samples += [before, replace(after, extra={"edit": edit})]
    return samples


def explained(sample_id: str, scenario: str, speed_mps: float, accel_mps2: float, rule: str) -> Sample:
    sample = make_sample(sample_id, scenario=scenario, speed_mps=speed_mps, accel_mps2=accel_mps2, rule=rule)
    answer = render_answer(reasoning_text(speed_mps, accel_mps2, rule), sample.waypoints_ego_m)
    return replace(sample, trace_level="brief", answer=answer, images=())


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "data", pair_samples())


class Oracle:
    """Answers with the labels, and counts what it was asked. stops_after: fails, as a killed process would, after so many."""

    def __init__(self, dataset: Dataset, stops_after: int | None = None) -> None:
        self.samples = {sample.sample_id: sample for sample in dataset.samples("test")}
        self.asked: list[str] = []
        self.stops_after = stops_after

    def __call__(self, questions: Sequence[Question]) -> Iterator[Prediction]:
        for question in questions:
            if self.stops_after is not None and len(self.asked) >= self.stops_after:
                raise KeyboardInterrupt
            self.asked.append(question.question_id)
            sample = self.samples[question.sample_id]
            text = sample.answer
            if question.prefix is not None:
                reasoning = parse_answer(question.prefix).reasoning or ""
                text = question.prefix + render_answer("", sample.waypoints_ego_m).removeprefix("<PLANNING>")
                assert parse_answer(text).reasoning == reasoning
            yield Prediction(
                sample_id=question.question_id,
                text=text,
                waypoints_ego_m=sample.waypoints_ego_m,
                error=None,
                seconds=0.25,
            )


@pytest.fixture
def complete(data: Dataset, tmp_path: Path) -> Path:
    out = tmp_path / "complete.jsonl"
    run_probes(data, "test", Oracle(data), out)
    return out


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


# ---- sections ------------------------------------------------------------------------------------------------------------


def test_a_brief_and_a_detailed_text_are_cut_where_a_reader_would_cut_them():
    assert [s.name for s in sections(reasoning_text(8.0, -1.0))] == ["scene", "route", "phases", "motion", "end"]
    assert [s.name for s in sections(DETAILED)] == ["scene", "route", "objects", "0.0", "0.5", "end"]
    assert sections(DETAILED)[3].text.startswith("0.0 speed")
    assert sections(DETAILED)[3].text.endswith("binds\n")


def test_a_text_with_a_mistake_in_it_is_cut_in_the_same_places():
    broken = DETAILED.replace("lead vehicle-1 gap 12.4", "I think that the lead is near").replace(
        "light none", "light blue"
    )
    assert [s.name for s in sections(broken)] == [s.name for s in sections(DETAILED)]


def test_prose_is_cut_by_lines_and_a_single_line_by_sentences():
    assert [s.text for s in sections("A car.\nI brake.\n\nDone.")] == ["A car.\n", "I brake.\n", "\n", "Done."]
    assert [s.text for s in sections("A car. I brake.  Done")] == ["A car. ", "I brake.  ", "Done"]
    assert sections(" \n") == ()


def test_a_text_of_a_million_lines_has_few_sections():
    assert len(sections("a car\n" * 100_000)) == MAX_SECTIONS
    assert len(sections(DETAILED + "\n0.5 speed 1.00 accel 0.00" * 10_000)) == 6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([*DETAILED.split("\n"), "", "prose. More prose! ", "until 2.0 s lead: brake", "\u2028x"]))
)
def test_sections_add_up_to_their_text_and_have_different_names(lines: list[str]):
    text = "\n".join(lines)
    parts = sections(text)
    assert "".join(s.text for s in parts) == (text if text.strip() else "")
    assert len({s.name for s in parts}) == len(parts) <= MAX_SECTIONS + 3
    assert first(parts, len(parts)) == (text.rstrip("\n") if text.strip() else "")


def test_a_swapped_section_changes_nothing_else():
    parts, other = sections(DETAILED), sections(DETAILED.replace("12.4 m ahead", "40.0 m left"))
    changed = swapped(parts, "objects", other[2])
    assert changed == DETAILED.replace("12.4 m ahead", "40.0 m left")
    assert swapped(parts, "end", other[5]) == DETAILED


# ---- questions -----------------------------------------------------------------------------------------------------------


def test_stage_one_asks_both_samples_freely_and_forces_both_texts_on_the_images_of_the_first(data: Dataset):
    samples = list(data.samples("test"))
    questions = stage_one(groups_of(samples)[:1])
    assert [q.question_id for q in questions] == [
        "s0#free",
        "s0+remove-lead#free",
        "s0#forced:s0",
        "s0#forced:s0+remove-lead",
    ]
    forced = questions[3]
    assert (forced.sample_id, forced.kind, forced.images_of) == ("s0", "forced", None)
    assert forced.about == (("text_of", "s0+remove-lead"),)
    answer = samples[1].answer
    assert forced.prefix == answer[: answer.index("<PLANNING>") + len("<PLANNING>")]


def test_stage_two_cuts_the_models_own_text_and_swaps_each_section_for_that_of_another_scenario(data: Dataset):
    samples = list(data.samples("test"))
    groups = groups_of(samples)
    own = reasoning_text(8.0, -0.5, "lead")
    questions = stage_two(groups, 1, {"s0#free": render_answer(own, samples[0].waypoints_ego_m)})
    cuts = [q for q in questions if q.kind == "cut"]
    assert [q.question_id for q in cuts] == [f"s0#cut:{k}" for k in range(5)]
    assert cuts[0].prefix == "<REASONING></REASONING>\n<PLANNING>"
    assert cuts[2].prefix == "<REASONING>" + "\n".join(own.split("\n")[:2]) + "</REASONING>\n<PLANNING>"
    assert dict(cuts[2].about) == {"kept": "2", "of": "5"}
    swaps = {dict(q.about)["section"]: parse_answer(q.prefix or "").reasoning for q in questions if q.kind == "swap"}
    assert set(swaps) == {"motion"}  # in everything else these texts are alike
    donor = reasoning_text(9.0, -1.25, "lead").split("\n")  # s1's, the next
    assert (swaps["motion"] or "").split("\n")[3:5] == donor[3:5]


def test_a_text_is_never_swapped_for_one_of_its_own_scenario():
    samples = [replace(s, scenario_id="one") for s in pair_samples()]
    answers = {"s0#free": samples[0].answer}
    assert {q.kind for q in stage_two(groups_of(samples), 1, answers)} == {"cut"}


def test_a_failed_or_silent_free_answer_is_asked_nothing_more(data: Dataset):
    groups = groups_of(data.samples("test"))
    assert stage_two(groups, 3, {}) == []
    assert stage_two(groups, 3, {"s0#free": "<PLANNING>[0.0, 0.0]</PLANNING>"}) == []


def test_a_split_without_pairs_is_refused_with_what_to_do(tmp_path: Path):
    plain = write_dataset(tmp_path / "plain", [s for s in pair_samples() if "edit" not in s.extra])
    with pytest.raises(ValueError, match="no minimal pairs: make some"):
        run_probes(plain, "test", Oracle(plain), tmp_path / "out.jsonl")


def test_a_pair_whose_first_sample_is_not_there_is_named(tmp_path: Path):
    orphan = write_dataset(tmp_path / "orphan", pair_samples()[1:])
    with pytest.raises(ValueError, match="edited from 's0', which is not among them"):
        write_stage(orphan, "test", tmp_path / "ask.jsonl")


# ---- asking --------------------------------------------------------------------------------------------------------------


def test_every_row_is_question_and_answer_and_stage_two_follows_stage_one(data: Dataset, complete: Path):
    rows = rows_of(complete)
    kinds = [row["kind"] for row in rows]
    assert kinds.index("cut") == 12
    assert set(kinds[12:]) == {"cut", "swap"}
    names = [
        "id",
        "sample",
        "kind",
        "images",
        "images_of",
        "prefix",
        "about",
        "text",
        "waypoints_ego_m",
        "error",
        "seconds",
    ]
    assert all(list(row) == names for row in rows)
    read = read_probes(complete, data, "test")
    assert [q.question_id for q in read.questions] == [row["id"] for row in rows]
    assert (read.outcomes, read.n_before, read.n_before_in_split) == ({}, 3, 3)


@pytest.mark.parametrize("stops_after", [0, 1, 11, 12, 13, 26])
def test_a_killed_run_goes_on_and_writes_the_same_bytes(
    data: Dataset, complete: Path, tmp_path: Path, stops_after: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "AT_ONCE", 5)
    out = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_probes(data, "test", Oracle(data, stops_after), out)
    assert not out.exists()
    part = tmp_path / "killed.jsonl.part"
    part.write_bytes(part.read_bytes() + b'{"id": "s0#fr')  # half a line, as a kill leaves it
    again = Oracle(data)
    summary = run_probes(data, "test", again, out, resume=True)
    assert out.read_bytes() == complete.read_bytes()
    assert summary.n_new == len(again.asked) <= summary.n - stops_after + 4
    assert not part.exists()


def test_a_finished_run_is_not_asked_again_and_not_overwritten_unless_told(data: Dataset, complete: Path):
    silent = Oracle(data, stops_after=0)
    assert run_probes(data, "test", silent, complete, resume=True).n == len(rows_of(complete))
    with pytest.raises(ValueError, match=r"made with other settings \(model: None -> 'b'\)"):
        run_probes(data, "test", silent, complete, resume=True, settings={"model": "b"})
    with pytest.raises(ValueError, match="--resume"):
        run_probes(data, "test", silent, complete)
    with pytest.raises(ValueError, match="exclude"):
        run_probes(data, "test", silent, complete, resume=True, overwrite=True)
    before = complete.read_bytes()
    run_probes(data, "test", Oracle(data), complete, overwrite=True)
    assert complete.read_bytes() == before


def test_a_run_begun_with_other_settings_is_not_mixed_with_this_one(data: Dataset, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_probes(data, "test", Oracle(data, 3), out, settings={"model": "a"})
    with pytest.raises(ValueError, match="unfinished run"):
        run_probes(data, "test", Oracle(data), out, settings={"model": "a"})
    with pytest.raises(ValueError, match=r"other settings \(model: 'a' -> 'b'\)"):
        run_probes(data, "test", Oracle(data), out, settings={"model": "b"}, resume=True)
    assert run_probes(data, "test", Oracle(data), out, settings={"model": "b"}, overwrite=True).n_errors == 0


def test_answers_of_a_model_that_was_trained_again_are_not_gone_on_with(data: Dataset, tmp_path, monkeypatch, capsys):
    asked = [str(data.folder), "--split", "test", "--out", str(tmp_path / "probes.jsonl")]
    for weights, status, resume in (("first", 0, []), ("first", 0, ["--resume"]), ("second", 1, ["--resume"])):
        monkeypatch.setattr("nsdrive.vla.answering.answerer", lambda *model, **how: Oracle(data))
        said = f"{weights} of m"
        monkeypatch.setattr("nsdrive.vla.fingerprint.fingerprint_of", lambda model, said=said: said)
        assert main(["probe", "--model", "m", "--data", *asked, *resume]) == status
    assert "(weights: 'first of m' -> 'second of m')" in capsys.readouterr().err


def test_a_limit_asks_the_first_samples_the_same_and_the_reader_knows(data: Dataset, complete: Path, tmp_path: Path):
    out = tmp_path / "limited.jsonl"
    run_probes(data, "test", Oracle(data), out, limit=2)
    all_rows = {row["id"]: row for row in rows_of(complete)}
    assert all(all_rows[row["id"]] == row for row in rows_of(out))
    read = read_probes(out, data, "test")
    assert (read.n_before, read.n_before_in_split, read.outcomes) == (2, 3, {})
    assert {row.before for row in pair_scores(read, data.samples("test"))} == {"s0", "s1"}
    with pytest.raises(ValueError, match="at least 1"):
        run_probes(data, "test", Oracle(data), out, limit=0, overwrite=True)


def test_an_answerer_that_mixes_up_or_forgets_its_questions_is_caught(data: Dataset, tmp_path: Path):
    oracle = Oracle(data)
    with pytest.raises(ValueError, match="was answered"):
        run_probes(data, "test", lambda qs: reversed(list(oracle(qs))), tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="Of 12 questions 2 were answered"):
        run_probes(data, "test", lambda qs: iter(list(oracle(qs))[:2]), tmp_path / "b.jsonl")


def test_what_no_file_can_hold_becomes_a_failed_answer(data: Dataset, tmp_path: Path):
    def wild(questions: Sequence[Question]) -> Iterator[Prediction]:
        for k, question in enumerate(questions):
            waypoints = [np.full((10, 2), np.nan), np.zeros((1, 2)), np.full((10, 2), 1e300)][k % 3]
            yield Prediction(
                sample_id=question.question_id,
                text="\ud800",
                waypoints_ego_m=waypoints,
                error=None,
                seconds=float("nan"),
            )

    out = tmp_path / "wild.jsonl"
    assert run_probes(data, "test", wild, out).n_errors == 12
    assert {row["error"] for row in rows_of(out)} == {UNUSABLE}
    assert read_probes(out, data, "test").answer("s0#free").error == UNUSABLE


# ---- models elsewhere ----------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(data: Dataset, tmp_path: Path) -> Callable[[Path, Path], None]:
    """elsewhere(questions file, answers file): a model that knows only predictions files."""

    def answer(questions: Path, answers: Path) -> None:
        write_rows(answers, [prediction.to_row() for prediction in Oracle(data)(read_questions(questions))])

    return answer


def test_a_model_elsewhere_makes_the_same_file_in_two_stages(data: Dataset, complete: Path, tmp_path: Path, elsewhere):
    ask_1, ask_2, said_1, said_2 = (tmp_path / name for name in ("a1", "a2", "s1", "s2"))
    assert write_stage(data, "test", ask_1).n == 12
    elsewhere(ask_1, said_1)
    summary = write_stage(data, "test", ask_2, answers=[said_1])
    assert summary.outcomes == {}
    elsewhere(ask_2, said_2)
    joined = from_answers([ask_1, ask_2], [said_2, said_1], tmp_path / "joined.jsonl")
    assert (tmp_path / "joined.jsonl").read_bytes() == complete.read_bytes()
    assert (joined.outcomes, joined.n_errors) == ({}, 0)
    for again in (lambda: write_stage(data, "test", ask_1), lambda: from_answers([ask_1], [said_1], ask_1)):
        with pytest.raises(ValueError, match="exists"):
            again()


def test_a_model_elsewhere_may_answer_with_its_text_alone(data: Dataset, tmp_path: Path):
    ask_1, ask_2, said_1, said_2 = (tmp_path / name for name in ("a1", "a2", "s1", "s2"))
    for asked, said, before in ((ask_1, said_1, None), (ask_2, said_2, [said_1])):
        write_stage(data, "test", asked, answers=before)
        answered = Oracle(data)(read_questions(asked))
        write_rows(said, [{"id": prediction.sample_id, "text": prediction.text} for prediction in answered])
    joined = from_answers([ask_1, ask_2], [said_1, said_2], tmp_path / "joined.jsonl")
    assert (joined.n_errors, joined.outcomes) == (0, {})


def test_a_stage_that_nobody_answered_has_no_next_one(data: Dataset, tmp_path: Path):
    write_rows(tmp_path / "said", [{"id": "s1#free", "text": "I do not know"}])
    with pytest.raises(ValueError, match="No answer can be gone on from"):
        write_stage(data, "test", tmp_path / "ask", answers=[tmp_path / "said"])


def test_wrong_missing_and_double_ids_of_a_stranger_are_counted_outcomes(data: Dataset, tmp_path: Path, elsewhere):
    ask, said_path = tmp_path / "ask", tmp_path / "said"
    write_stage(data, "test", ask)
    elsewhere(ask, said_path)
    rows = rows_of(said_path)
    short = {**rows[4], "waypoints_ego_m": [[1.0, 2.0]]}
    endless = json.dumps({**rows[5], "waypoints_ego_m": "HERE"}).replace('"HERE"', "[[1e400, NaN]]")
    other = {**rows[3], "text": "<REASONING>no</REASONING>"}
    given = [
        rows[0],
        rows[0],
        rows[2],
        rows[3],
        other,
        short,
        endless,
        {**rows[6], "id": "who?"},
        "not JSON",
        "[" * 5000,
        *rows[7:11],
    ]
    write_rows(said_path, given)
    summary = from_answers([ask], [said_path], tmp_path / "out")
    assert summary.outcomes == {
        MISSING: 3,  # rows 1, 6 and 11
        TWICE: 1,
        REPEATED: 2,
        UNKNOWN_ID: 1,
        NO_ROW: 2,
        UNUSABLE: 2,
    }
    errors = {row["id"]: row["error"] for row in rows_of(tmp_path / "out") if row["error"] is not None}
    assert len(errors) == summary.n_errors == 6
    assert errors[rows[3]["id"]] == TWICE
    assert errors[rows[1]["id"]] == MISSING
    assert f"3 x {MISSING}" in str(summary)


def test_an_answer_that_does_not_begin_as_it_was_forced_to_is_counted(data: Dataset, tmp_path: Path, elsewhere):
    ask, said_path = tmp_path / "ask", tmp_path / "said"
    write_stage(data, "test", ask)
    elsewhere(ask, said_path)
    rows = rows_of(said_path)
    rows[3]["text"] = rows[0]["text"].replace("Scene", "Scenery")
    write_rows(said_path, rows)
    assert from_answers([ask], [said_path], tmp_path / "out").outcomes == {NO_PREFIX: 1}


# ---- a file from anybody -------------------------------------------------------------------------------------------------


def test_leaving_out_hard_questions_or_changing_them_does_not_help(data: Dataset, complete: Path, tmp_path: Path):
    rows = rows_of(complete)
    rows = [row for row in rows if row["id"] != "s1#forced:s1+remove-lead"]
    for row in rows:
        if row["id"] == "s0#forced:s0+remove-lead":
            row["prefix"] = row["prefix"].replace("accel", "accell")
        if row["id"] == "s2#cut:3":
            row["sample"] = "s1"
    read = read_probes(write_rows(tmp_path / "bent.jsonl", rows), data, "test")
    assert read.outcomes == {MISSING: 1, OTHERWISE: 2}
    assert read.answer("s1#forced:s1+remove-lead").error == MISSING
    assert read.answer("s0#forced:s0+remove-lead").error == OTHERWISE
    scores = pair_scores(read, data.samples("test"))
    assert [row.failed for row in scores if row.before == "s1" and row.after] == [("s1#forced:s1+remove-lead",)]


def test_a_file_of_another_dataset_or_of_nothing_is_refused_in_one_line(data: Dataset, tmp_path: Path):
    deep = "[" * 900 + "]" * 900
    strange = write_rows(tmp_path / "strange.jsonl", [{"id": "x#free"}, '{"id": ' + deep + "}", "[1, 2]", '"#"', "{}"])
    with pytest.raises(ValueError, match="answers no question about"):
        read_probes(strange, data, "test")
    assert causal([])["forced_slope"]["value"] is None
    with pytest.raises(FileNotFoundError, match="No file"):
        read_probes(tmp_path / "nowhere", data, "test")


def test_no_text_makes_reading_slow_or_fail(data: Dataset, tmp_path: Path):
    texts = [
        "<REASONING>" + "Scene: nothing in view, light none\n" * 30_000 + "</REASONING>",
        "<REASONING>" * 90_000,
        "<PLANNING>" * 90_000,
        "<PLANNING>[" + "1" * 900_000 + "</PLANNING>",
        "<REASONING>Scene: " + "1 vehicle, " * 4_000 + "</REASONING>",
        "\x00\u2028<script>alert(1)</script>",
    ]

    def loud(questions: Sequence[Question]) -> Iterator[Prediction]:
        for k, question in enumerate(questions):
            text = texts[k % len(texts)] + "\n<PLANNING>"
            yield Prediction(
                sample_id=question.question_id, text=text, waypoints_ego_m=np.zeros((10, 2)), error=None, seconds=0.0
            )

    out = tmp_path / "loud.jsonl"
    run_probes(data, "test", loud, out, limit=1)
    cells = causal(pair_scores(read_probes(out, data, "test"), data.samples("test")))
    assert cells["edit_blind"]["value"] == 1.0
