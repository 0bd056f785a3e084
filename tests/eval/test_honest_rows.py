"""Rows that nobody asked for and every reader needs: controls, groups, and the tables that rank them."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from eval_fixtures import answer, digest, make_sample, reasoning_text, write_dataset

from eval.evaluate import evaluate, table
from eval.faithfulness.observed.measures import STRICT
from eval.open_loop.groups import CLEAR, HIDDEN, LIGHT, NOT_AN_OBJECT, SMALL, UNKNOWN, visibility_group
from eval.report import tables
from eval.report.browser import browser_of
from eval.report.chapters import blocks_of
from eval.report.runs import load_runs
from nsdrive.vla.prompt import render_answer

CONTROLS = ("black", "shuffled", "no_text", "oracle_text")


def shifted(samples, metres):
    return [answer(s, s.waypoints_ego_m + metres) for s in samples]


# ---- controls -------------------------------------------------------------------------------------------------------


def test_controls_beside_a_file_are_rows_without_being_asked_for(dataset, samples, write_predictions, tmp_path):
    model = write_predictions("m", shifted(samples, 0.1))
    write_predictions("m.black", shifted(samples, 0.5))
    write_predictions("m.oracle_text", shifted(samples, 0.0))
    results = evaluate([model], dataset, tmp_path / "out")
    entries = results["predictions"]
    assert list(entries) == ["m", "m.black", "m.oracle_text"]
    assert [(e["control"], e["control_of"]) for e in entries.values()] == [
        (None, None),
        ("black", "m"),
        ("oracle_text", "m"),
    ]
    assert entries["m.black"]["about"] == "the same model, every image blacked out"
    assert results["first"] == "m"


def test_the_controls_that_are_not_there_are_named_with_the_command_that_makes_them(
    dataset, samples, write_predictions, tmp_path
):
    model = write_predictions("m", shifted(samples, 0.1))
    write_predictions("m.shuffled", shifted(samples, 0.5))
    commands = evaluate([model], dataset, tmp_path / "out")["controls_missing"]["m"]
    words = [shlex.split(command) for command in commands]
    assert [w[w.index("--control") + 1] for w in words] == ["black", "no_text", "oracle_text"]
    assert [w[w.index("--out") + 1] for w in words] == [
        str(tmp_path / f"m.{c}.jsonl") for c in ("black", "no_text", "oracle_text")
    ]
    assert all(w[:2] == ["nsdrive", "predict"] and w[w.index("--data") + 1] == str(dataset.folder) for w in words)


def test_a_control_given_by_itself_is_no_model_and_is_not_added_twice(dataset, samples, write_predictions, tmp_path):
    model, black = write_predictions("m", shifted(samples, 0.1)), write_predictions("m.black", shifted(samples, 0.5))
    entries = evaluate({"mine": model, "no eyes": black}, dataset, tmp_path / "out")["predictions"]
    assert list(entries) == ["mine", "no eyes"]
    assert (entries["no eyes"]["control"], entries["no eyes"]["control_of"]) == ("black", "mine")


def test_a_control_that_was_only_found_never_takes_a_given_file_s_name(samples, dataset, tmp_path, write_predictions):
    model = write_predictions("m", shifted(samples, 0.1))
    write_predictions("m.black", shifted(samples, 0.5))
    other = write_predictions("another", shifted(samples, 0.2))
    for files in ({"m": model, "m.black": other}, {"m.black": other, "m": model}):
        entries = evaluate(files, dataset, tmp_path / "-".join(files))["predictions"]
        assert sorted(entries) == ["m", "m.black"]
        assert entries["m.black"]["file"].endswith("another.jsonl")


@pytest.mark.parametrize("content", ["not a row\n", '{"id": "of another split", "text": ""}\n'])
def test_a_control_that_is_no_use_is_left_out_with_a_warning(content, dataset, samples, write_predictions, tmp_path):
    model = write_predictions("m", shifted(samples, 0.1))
    (tmp_path / "m.black.jsonl").write_text(content)
    results = evaluate([model], dataset, tmp_path / "out")
    assert list(results["predictions"]) == ["m"]
    assert any(line.startswith("m.black: not measured") for line in results["warnings"])
    with pytest.raises(ValueError, match=r"m.black.jsonl"):
        evaluate([model, tmp_path / "m.black.jsonl"], dataset, tmp_path / "asked for")


def test_a_baseline_s_file_needs_no_controls(dataset, samples, write_predictions, tmp_path):
    results = evaluate([write_predictions("blind_idm", shifted(samples, 0.1))], dataset, tmp_path / "out")
    assert results["controls_missing"] == {}


def test_every_file_is_paired_with_every_other_and_with_every_blind_baseline(
    dataset, samples, write_predictions, tmp_path
):
    rng = np.random.default_rng([2])
    files = [
        write_predictions(n, [answer(s, s.waypoints_ego_m + rng.normal(0, 1, (10, 2))) for s in samples]) for n in "ab"
    ]
    results = evaluate(files, dataset, tmp_path / "out")
    tests = [t for t in results["paired"] if t["measure"] == "3s/ADE"]
    assert len(tests) == 1 + 2 * 4
    first = tests[0]
    ade = {n: results["predictions"][n]["strict"]["3s"]["ADE"]["value"] for n in "ab"}
    assert first["difference"] == pytest.approx(ade["a"] - ade["b"], abs=2e-6)
    assert all(t["p"] <= t["p_holm"] <= 1.0 for t in tests)


# ---- groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "seen", "group"),
    [
        (None, {}, NOT_AN_OBJECT),
        ("stopline-1", {}, NOT_AN_OBJECT),
        ("signal-1", {"CAM_F0": {}}, LIGHT),
        ("hidden-1", {"CAM_F0": {}}, HIDDEN),
        ("vehicle-1", {"CAM_F0": {"car-2": 900}}, HIDDEN),
        ("vehicle-1", {"CAM_F0": {"car-1": 99}, "CAM_L0": {"car-1": 60}}, SMALL),
        ("vehicle-1", {"CAM_F0": {"car-1": 60}, "CAM_L0": {"car-1": 100}}, CLEAR),
        ("vehicle-1", None, UNKNOWN),
    ],
)
def test_visibility_is_that_of_the_binding_object_in_the_camera_that_sees_most(about, seen, group):
    assert visibility_group(about, {"vehicle-1": "car-1"}, seen, 640 * 360) == group


def test_pixels_count_by_the_size_of_the_image():
    seen = {"CAM_F0": {"car-1": 60}}
    assert visibility_group("vehicle-1", {"vehicle-1": "car-1"}, seen, 640 * 360) == SMALL
    assert visibility_group("vehicle-1", {"vehicle-1": "car-1"}, seen, 320 * 180) == CLEAR


def test_groups_of_speed_visibility_and_length_add_up_and_stand_in_every_line(tmp_path, write_predictions):
    seen = {"seen": {"CAM_F0": {"car-1": 500}}}
    samples = [
        make_sample("s0", scenario="a", speed_mps=0.0),
        make_sample("s1", scenario="b", speed_mps=3.0, about="vehicle-1", extra=seen),
        make_sample("s2", scenario="c", speed_mps=12.0, about="vehicle-2", extra=seen),
    ]
    dataset = write_dataset(tmp_path / "data", samples)
    entry = evaluate([write_predictions("m", shifted(samples, 0.1))], dataset, tmp_path / "out")["predictions"]["m"]
    assert {g: e["n"] for g, e in entry["by_speed"].items()} == {
        "standing, under 0.5 m/s": 1,
        "0.5 to 5 m/s": 1,
        "10 to 15 m/s": 1,
    }
    assert {g: e["n"] for g, e in entry["by_visibility"].items()} == {NOT_AN_OBJECT: 1, HIDDEN: 1, CLEAR: 1}
    assert {g: e["n"] for g, e in entry["by_length"].items()} == {
        "stays, under 1 m": 1,
        "1 to 20 m": 1,
        "50 m and more": 1,
    }
    lines = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [line["visibility_group"] for line in lines[:3]] == [NOT_AN_OBJECT, CLEAR, HIDDEN]
    assert [line["speed_group"] for line in lines[:3]] == list(entry["by_speed"])


# ---- texts and plans ------------------------------------------------------------------------------------------------


def miles(sample, waypoints_ego_m, previous=None):
    """A scorer: what an answer drives in miles, and a term that only red lights have."""
    if waypoints_ego_m is None:
        return {"miles": 0.0}
    miles = float(waypoints_ego_m[-1, 0]) / 1609.344
    return {"miles": miles} | ({"red": 1.0} if sample.binding_rule == "red_light" else {})


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(dataset, samples, write_predictions, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.texts.CHUNK", 5)
    model = write_predictions("m", shifted(samples, 0.1))
    for workers in (1, 2):
        evaluate([model], dataset, tmp_path / str(workers), workers=workers, plan_scorer=miles)
    for file in ("results.json", "samples.jsonl"):
        assert digest(tmp_path / "1" / file) == digest(tmp_path / "2" / file)


def test_a_scorer_of_plans_gives_its_terms_with_intervals_for_models_and_baselines(
    dataset, samples, write_predictions, tmp_path
):
    results = evaluate([write_predictions("m", shifted(samples, 0.0))], dataset, tmp_path / "out", plan_scorer=miles)
    found = results["predictions"]["m"]["pdms"]
    assert found["miles"]["value"] == pytest.approx(
        np.mean([s.waypoints_ego_m[-1, 0] for s in samples]) / 1609.344, abs=1e-6
    )
    assert found["miles"]["low"] < found["miles"]["value"] < found["miles"]["high"]
    assert (found["miles"]["n"], found["red"]["n"]) == (12, 4)
    assert results["baselines"]["blind_idm"]["pdms"]["miles"]["n"] == 12
    lines = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [line["miles"] for line in lines[:12]] == pytest.approx(
        [s.waypoints_ego_m[-1, 0] / 1609.344 for s in samples], abs=1e-4
    )
    assert sum("red" in line for line in lines) == 4 * len({line["predictions"] for line in lines})


class Lost:
    """A scorer to which some samples' scenes are lost."""

    def __init__(self, lost):
        self.lost, self.failures = lost, {}

    def __call__(self, sample, waypoints_ego_m, previous=None):
        if sample.sample_id in self.lost:
            self.failures[sample.sample_id] = "no such log"
            return {"miles": float("nan")}
        return {"miles": 1.0}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_samples_whose_plans_cannot_be_judged_are_counted_and_the_first_is_named(
    workers, dataset, samples, write_predictions, tmp_path, monkeypatch
):
    monkeypatch.setattr("eval.texts.CHUNK", 5)
    model, lost = write_predictions("m", shifted(samples, 0.0)), {samples[k].sample_id for k in (3, 4, 11)}
    results = evaluate([model], dataset, tmp_path / "out", plan_scorer=Lost(lost), workers=workers)
    assert results["predictions"]["m"]["pdms"]["miles"]["n"] == 9
    line = "3 samples' plans could not be judged, the first: s03: no such log"
    assert results["warnings"].count(line) == 1
    assert f"warning: {line}" in table(results)


def test_plans_of_which_none_can_be_judged_are_refused(dataset, samples, write_predictions, tmp_path):
    lost = Lost({sample.sample_id for sample in samples})
    with pytest.raises(ValueError, match="No plan could be judged, the first: s00: no such log"):
        evaluate([write_predictions("m", shifted(samples, 0.0))], dataset, tmp_path / "out", plan_scorer=lost)
    assert not (tmp_path / "out").exists()


def test_a_scorer_is_told_the_plan_before(dataset, samples, write_predictions, tmp_path):
    told = []

    def scorer(sample, waypoints_ego_m, previous=None):
        told.append((sample.sample_id, None if previous is None else (previous[0].sample_id, float(previous[1][0, 0]))))
        return {"told": 1.0}

    evaluate([write_predictions("m", shifted(samples, 0.0))], dataset, tmp_path / "out", plan_scorer=scorer)
    own = [before for _, before in told[:: len(told) // len(samples)]]
    assert own[0] is None
    assert own[1:] == [(s.sample_id, pytest.approx(s.waypoints_ego_m[0, 0])) for s in samples[:-1]]


def test_texts_are_not_read_where_nobody_asks(dataset, samples, write_predictions, tmp_path):
    model = write_predictions("m", shifted(samples, 0.1))
    with_texts = evaluate([model], dataset, tmp_path / "a")
    without = evaluate([model], dataset, tmp_path / "b", reasoning=False)
    assert with_texts["predictions"]["m"]["observed"]["schema"]["n"] == 0  # level none: nobody was asked for a text
    assert without["predictions"]["m"]["observed"] is None
    assert without["predictions"]["m"]["strict"] == with_texts["predictions"]["m"]["strict"]


@pytest.fixture
def asked_for_texts(tmp_path, samples):
    """The samples with brief texts, and their data set, of which a text is asked."""
    made = [
        replace(s, trace_level="brief", answer=render_answer(reasoning_text(8.0, -1.0), s.waypoints_ego_m))
        for s in samples
    ]
    return made, write_dataset(tmp_path / "with texts", made)


def test_who_is_not_asked_for_a_text_is_not_measured_by_it_and_who_is_asked_and_silent_is(
    asked_for_texts, write_predictions, tmp_path
):
    samples, dataset = asked_for_texts
    silent = shifted(samples, 0.0)
    write_predictions("m.no_text", silent)
    files = [write_predictions("m", [answer(s, text=s.answer) for s in samples])]
    files += [write_predictions(name, silent) for name in ("silent", "blind_idm")]
    entries = evaluate(files, dataset, tmp_path / "out")["predictions"]
    for name in ("m.no_text", "blind_idm"):
        observed = entries[name]["observed"]
        assert [observed[measure]["value"] for measure in STRICT] == [None] * len(STRICT), name
        assert observed["manoeuvre_driven"]["value"] == 1.0
    assert {entries["silent"]["observed"][measure]["value"] for measure in STRICT} == {0.0}
    assert {name: entry["texts"] for name, entry in entries.items()} == {
        "m": len(samples),
        "m.no_text": 0,
        "silent": 0,
        "blind_idm": 0,
    }


def test_the_leaderboard_has_a_dash_for_the_texts_of_who_never_says_a_word(
    asked_for_texts, write_predictions, tmp_path
):
    samples, dataset = asked_for_texts
    files = [write_predictions("m", [answer(s, text=s.answer) for s in samples])]
    files += [write_predictions("silent", shifted(samples, 0.0))]
    evaluate(files, dataset, tmp_path / "out")
    (comparison,), _ = load_runs([tmp_path / "out"])
    board = tables.leaderboard(comparison)
    agree = board.heads.index("text and motion\nagree")
    said = {row[0].text.split(" ", 1)[1]: row[agree].text for row in board.rows}
    assert said["silent"] == said["blind_idm"] == "–"
    assert 0.0 <= float(said["m"]) <= 1.0


def test_files_beyond_those_that_the_page_can_show_are_named(dataset, samples, write_predictions, tmp_path):
    names = [f"file{k}" for k in range(7)]
    evaluate([write_predictions(name, shifted(samples, 0.1)) for name in names], dataset, tmp_path / "out")
    (comparison,), _ = load_runs([tmp_path / "out"])
    beyond = [row.name for row in comparison.rows[8:]]
    assert len(beyond) == 3
    told = [note for note in browser_of(comparison).notes if note.startswith("At most 8 files")]
    assert len(told) == 1
    errors = next(block for block in blocks_of(comparison, 0) if block.title == "Errors")
    for note in (*told, errors.note):
        assert note.endswith(f": {', '.join(beyond)}.")


# ---- tables of several runs -----------------------------------------------------------------------------------------


def test_the_leaderboard_ranks_files_of_several_runs_and_says_what_each_is(
    dataset, samples, write_predictions, tmp_path
):
    write_predictions("good.black", shifted(samples, 1.0))
    evaluate([write_predictions("good", shifted(samples, 0.1))], dataset, tmp_path / "a")
    evaluate([write_predictions("better", shifted(samples, 0.05))], dataset, tmp_path / "b")
    (comparison,), _ = load_runs([tmp_path / "a", tmp_path / "b"])
    board = tables.leaderboard(comparison)
    names = [row[0].text.split(" ", 1)[1] for row in board.rows]
    assert names.index("better") < names.index("good") < names.index("good.black")
    ade = [float(row[1].text) for row in board.rows]
    assert ade == sorted(ade)
    kinds = {row[0].text.split(" ", 1)[1]: row[-1].text for row in board.rows}
    assert (kinds["good"], kinds["good.black"], kinds["blind_idm"]) == ("model", "control", "sees no image")


def test_the_paper_s_table_has_our_model_in_the_row_of_its_dataset(samples, write_predictions, tmp_path):
    dataset = write_dataset(tmp_path / "data", samples)  # three cameras, no text
    evaluate([write_predictions("m", shifted(samples, 0.3))], dataset, tmp_path / "out")
    comparisons, _ = load_runs([tmp_path / "out"])
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in tables.paper_table(comparisons).rows}
    assert rows["3 cameras, none: m"][0] == "0.42"
    assert rows["3 cameras, none: m"][-2:] == ["0.47", "8.30"]
    assert rows["8 cameras, detailed"] == ["–"] * 6 + ["0.26", "5.99"]
    assert len(rows) == 6
