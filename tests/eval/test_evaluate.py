import json
import math

import numpy as np
import pytest
from eval_fixtures import answer, digest, make_sample, write_dataset
from predictions import predictions_in

from eval.evaluate import evaluate, name_files, table
from eval.open_loop.baselines import write_baseline
from eval.open_loop.predictions_file import read_file
from nsdrive.dataset import Prediction
from nsdrive.vla.prompt import parse_answer

HORIZONS = ("1s", "2s", "3s", "5s")
MEASURES = ("ADE", "FDE", "MR", "AHE", "FHE")


def value(entry, counted, horizon, measure):
    return entry[counted][horizon][measure]["value"]


def test_the_oracle_makes_no_error(dataset, tmp_path):
    write_baseline("oracle", dataset, "test", tmp_path / "oracle.jsonl")
    entry = evaluate([tmp_path / "oracle.jsonl"], dataset, tmp_path / "out")["predictions"]["oracle"]
    assert entry["n"] == 12
    assert entry["parse_failures"] == 0
    for counted in ("strict", "parsed"):
        for horizon in HORIZONS:
            for measure in MEASURES:
                assert entry[counted][horizon][measure] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_constant_velocity_errs_by_half_a_t_squared(tmp_path):
    samples = [make_sample(f"s{i}", scenario=f"c{i}", speed_mps=12.0, accel_mps2=-1.0) for i in range(4)]
    dataset = write_dataset(tmp_path / "data", samples)
    entry = evaluate({"x": _file(tmp_path, samples)}, dataset, tmp_path / "out")["baselines"]["constant_velocity"]
    for horizon in HORIZONS:
        seconds = int(horizon[0])
        times = 0.5 * np.arange(1, 2 * seconds + 1)
        assert value(entry, "strict", horizon, "FDE") == pytest.approx(0.5 * seconds**2, abs=1e-4)
        assert value(entry, "strict", horizon, "ADE") == pytest.approx(np.mean(0.5 * times**2), abs=1e-4)
    assert value(entry, "strict", "2s", "MR") == 0.0
    assert value(entry, "strict", "3s", "MR") == 1.0


def test_an_unreadable_answer_counts_in_strict_and_not_in_parsed(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s) for s in samples]
    rows[3] = Prediction(
        sample_id="s03", text="I would rather walk", waypoints_ego_m=None, error="0 blocks", seconds=1.0
    )
    entry = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")["predictions"]["m"]
    assert (entry["n"], entry["parse_failures"], entry["failures"]) == (12, 1, {"0 blocks": 1})
    assert value(entry, "strict", "3s", "ADE") == pytest.approx(10.0 / 12.0, abs=1e-6)
    assert value(entry, "strict", "1s", "MR") == pytest.approx(1.0 / 12.0, abs=1e-6)
    assert value(entry, "strict", "5s", "FHE") == pytest.approx(15.0)
    assert value(entry, "parsed", "3s", "ADE") == 0.0


def test_a_missing_prediction_is_a_miss(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s) for s in samples[:9]]
    entry = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")["predictions"]["m"]
    assert entry["n"] == 12
    assert entry["failures"] == {"missing prediction": 3}
    assert value(entry, "strict", "3s", "ADE") == pytest.approx(30.0 / 12.0)
    assert entry["in_order"]


@pytest.mark.parametrize(
    "waypoints",
    [
        [[math.nan, 0.0]] * 10,
        [[math.inf, 0.0]] * 10,
        [[1e300, 0.0]] * 10,
        [[1.0, 0.0]],
        [[1.0, 0.0]] * 11,
        [[1.0, 0.0, 0.0]] * 10,
        "ten of them",
        [],
        {"x": 1},
    ],
)
def test_waypoints_that_are_no_waypoints_are_a_miss(waypoints, dataset, samples, write_predictions, tmp_path):
    rows = [answer(s).to_row() for s in samples]
    rows[0]["waypoints_ego_m"] = waypoints
    entry = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")["predictions"]["m"]
    assert entry["parse_failures"] == 1
    assert value(entry, "strict", "1s", "FDE") == pytest.approx(10.0 / 12.0, abs=1e-6)


def test_prose_in_any_language_is_a_counted_row(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s) for s in samples]
    text = "前方有红灯,\u2028请减速停车。" + "\ud800"
    rows[1] = Prediction(sample_id="s01", text=text, waypoints_ego_m=None, error=parse_answer(text).error, seconds=0.1)
    entry = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")["predictions"]["m"]
    assert (entry["n"], entry["parse_failures"]) == (12, 1)


def test_an_error_that_no_file_can_hold_is_still_counted(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s).to_row() for s in samples]
    rows[1] |= {"waypoints_ego_m": None, "error": "bad \ud800"}
    evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")
    assert json.loads((tmp_path / "out/results.json").read_text("utf-8"))["predictions"]["m"]["parse_failures"] == 1


def test_no_readable_answer_at_all_leaves_parsed_empty_and_warns(dataset, samples, write_predictions, tmp_path):
    rows = [Prediction(sample_id=s.sample_id, text="", waypoints_ego_m=None, error="no", seconds=0) for s in samples]
    results = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")
    entry = results["predictions"]["m"]
    assert entry["parsed"]["3s"]["ADE"] == {"value": None, "low": None, "high": None}
    assert value(entry, "strict", "3s", "MR") == 1.0
    assert any("penalty alone" in line for line in results["warnings"])
    assert "12" in table(results)


def test_shuffled_rows_give_the_same_numbers_and_a_warning(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s, s.waypoints_ego_m + 0.1 * i) for i, s in enumerate(samples)]
    straight = evaluate({"m": write_predictions("m", rows)}, dataset, tmp_path / "a")
    shuffled = evaluate({"m": write_predictions("n", rows[::-1])}, dataset, tmp_path / "b")
    assert shuffled["predictions"]["m"]["strict"] == straight["predictions"]["m"]["strict"]
    assert straight["predictions"]["m"]["in_order"]
    assert straight["warnings"] == []
    assert not shuffled["predictions"]["m"]["in_order"]
    assert "not in the split's order" in shuffled["warnings"][0]


def test_a_file_of_another_split_is_an_error_that_says_so(dataset, write_predictions, tmp_path):
    path = write_predictions("m", [answer(make_sample("elsewhere", scenario="x"))])
    with pytest.raises(
        ValueError, match=r"1 samples that are not in split 'test', the first 'elsewhere'.*another split"
    ):
        evaluate([path], dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_id_that_a_stranger_wrote_cannot_fill_or_colour_a_terminal(dataset, write_predictions, tmp_path):
    path = write_predictions("m", [answer(make_sample("\x1b[31mred\n" + "x" * 100_000, scenario="x"))])
    with pytest.raises(ValueError, match="another split") as found:
        evaluate([path], dataset, tmp_path / "out")
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 400 + len(str(path))


def test_a_row_of_an_unknown_sample_among_known_ones_is_counted_and_changes_no_number(
    dataset, samples, write_predictions, tmp_path
):
    rows = [answer(s, s.waypoints_ego_m + 0.1) for s in samples]
    clean = evaluate({"m": write_predictions("m", rows)}, dataset, tmp_path / "a")
    rows.insert(3, answer(make_sample("elsewhere", scenario="x")))
    results = evaluate({"m": write_predictions("n", rows)}, dataset, tmp_path / "b")
    entry = results["predictions"]["m"]
    assert entry["strict"] == clean["predictions"]["m"]["strict"]
    assert (entry["rows"]["given"], entry["rows"]["unknown_ids"], entry["rows"]["extra"]) == (13, 1, 1)
    assert any("1 rows answer no sample of this split" in line for line in results["warnings"])


def test_the_same_answer_twice_counts_once(dataset, samples, write_predictions, tmp_path):
    path = write_predictions("m", [*map(answer, samples), answer(samples[4])])
    entry = evaluate([path], dataset, tmp_path / "out")["predictions"]["m"]
    assert (entry["rows"]["duplicates"], entry["rows"]["contradicting"], entry["parse_failures"]) == (1, 0, 0)


@pytest.mark.parametrize("better_first", [True, False])
def test_two_answers_that_contradict_each_other_are_a_failed_one_whichever_comes_first(
    better_first, dataset, samples, write_predictions, tmp_path
):
    rows = [answer(s) for s in samples]
    worse = answer(samples[4], samples[4].waypoints_ego_m + 3.0)
    rows = [*rows, worse] if better_first else [*rows[:4], worse, *rows[4:]]
    entry = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")["predictions"]["m"]
    assert (entry["rows"]["duplicates"], entry["rows"]["contradicting"]) == (0, 1)
    assert entry["failures"] == {"two rows of the file contradict each other": 1}
    assert value(entry, "strict", "3s", "ADE") == pytest.approx(10.0 / 12.0)


def test_groups_add_up_to_the_whole(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s, s.waypoints_ego_m + 0.3 * i) for i, s in enumerate(samples)]
    entry = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")["predictions"]["m"]
    for groups in (entry["by_scenario_type"], entry["by_binding_rule"]):
        assert sum(group["n"] for group in groups.values()) == 12
        total = sum(group["n"] * value(group, "strict", "3s", "ADE") for group in groups.values())
        assert total / 12 == pytest.approx(value(entry, "strict", "3s", "ADE"), abs=1e-5)
    assert list(entry["by_binding_rule"]) == ["lead", "red_light", "target_speed"]
    assert list(entry["by_scenario_type"]) == ["at_light", "following_lane", "near_lead"]


def test_blind_baselines_stand_beside_every_model_and_only_once(dataset, samples, write_predictions, tmp_path):
    results = evaluate([write_predictions("m", [*map(answer, samples)])], dataset, tmp_path / "a")
    assert set(results["baselines"]) == {
        "constant_velocity", "constant_turn_rate_velocity", "constant_acceleration", "blind_idm",
    }  # fmt: skip
    write_baseline("blind_idm", dataset, "test", tmp_path / "blind_idm.jsonl")
    given = evaluate([tmp_path / "m.jsonl", tmp_path / "blind_idm.jsonl"], dataset, tmp_path / "b")
    assert "blind_idm" not in given["baselines"]
    ours = results["baselines"]["blind_idm"]["strict"]
    theirs = given["predictions"]["blind_idm"]["strict"]
    assert theirs["3s"]["ADE"]["value"] == pytest.approx(
        ours["3s"]["ADE"]["value"], abs=1e-4
    )  # a file holds 4 decimals


def test_every_sample_has_its_line(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s, s.waypoints_ego_m + np.array([1.0, 0.0])) for s in samples]
    evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line["predictions"] == "m"]
    assert [line["id"] for line in mine] == [s.sample_id for s in samples]
    assert {line["3s/ADE"] for line in mine} == {1.0}


def test_the_same_input_gives_the_same_bytes(dataset, samples, write_predictions, tmp_path):
    rng = np.random.default_rng([2])
    path = write_predictions("m", [answer(s, s.waypoints_ego_m + rng.normal(0, 1, (10, 2))) for s in samples])
    for name in ("a", "b"):
        evaluate([path], dataset, tmp_path / name)
    for file in ("results.json", "samples.jsonl"):
        assert digest(tmp_path / "a" / file) == digest(tmp_path / "b" / file)
    interval = json.loads((tmp_path / "a/results.json").read_text())["predictions"]["m"]["strict"]["3s"]["ADE"]
    assert interval["low"] < interval["value"] < interval["high"]


def test_earlier_results_are_not_overwritten_unasked(dataset, samples, write_predictions, tmp_path):
    path = write_predictions("m", [*map(answer, samples)])
    evaluate([path], dataset, tmp_path / "out")
    with pytest.raises(ValueError, match="has results"):
        evaluate([path], dataset, tmp_path / "out")
    evaluate([path], dataset, tmp_path / "out", overwrite=True)


def test_an_overwriting_that_is_killed_leaves_no_results_of_before(
    dataset, samples, write_predictions, tmp_path, monkeypatch
):
    path, out = write_predictions("m", [*map(answer, samples)]), tmp_path / "out"
    evaluate([path], dataset, out)
    (out / "pairs.jsonl").write_text("of probes that were given before")

    def killed(*anything):
        raise KeyboardInterrupt

    for name in ("write_lines", "write_atomically"):
        with monkeypatch.context() as patch:
            patch.setattr(f"eval.evaluate.{name}", killed)
            with pytest.raises(KeyboardInterrupt):
                evaluate([path], dataset, out, overwrite=True)
        assert not (out / "results.json").exists()
        assert not (out / "pairs.jsonl").exists()
        evaluate([path], dataset, out, overwrite=True)
    assert json.loads((out / "results.json").read_text())["first"] == "m"


def test_predictions_that_the_results_would_replace_are_refused(dataset, samples, write_predictions, tmp_path):
    path = write_predictions("pairs", [*map(answer, samples)])
    with pytest.raises(ValueError, match=r"pairs\.jsonl is a file that .* writes anew"):
        evaluate([path], dataset, path.parent, overwrite=True)
    assert path.exists()


def test_files_called_predictions_are_named_after_their_run(tmp_path):
    files = name_files(
        [tmp_path / "run_a/predictions.jsonl", tmp_path / "run_b/predictions.jsonl", tmp_path / "idm.jsonl"]
    )
    assert list(files) == ["run_a", "run_b", "idm"]
    assert list(name_files([tmp_path / "a/m.jsonl", tmp_path / "b/m.jsonl"])) == ["a/m", "b/m"]
    with pytest.raises(ValueError, match="Two predictions files are called"):
        name_files([tmp_path / "m.jsonl", tmp_path / "m.jsonl"])


def _file(folder, samples):
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(answer(s).to_row()) + "\n" for s in samples))
    return path


def test_predictions_of_any_shape_become_rows(tmp_path):
    path = tmp_path / "p.jsonl"
    good = {"id": "a", "text": "t", "waypoints_ego_m": np.zeros((10, 2)).tolist(), "error": None, "seconds": 0.1}
    rows = [
        good,
        good | {"waypoints_ego_m": [[1, 2]]},
        good | {"waypoints_ego_m": "far"},
        good | {"waypoints_ego_m": None},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    read = predictions_in(path)
    assert read[0].error is None
    assert read[0].waypoints_ego_m.shape == (10, 2)
    assert all(p.waypoints_ego_m is None and p.error for p in read[1:])
    path.write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"p\.jsonl: none of its 1 lines is a prediction; line 1"):
        read_file(path)
