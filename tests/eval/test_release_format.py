"""The release's formats and numbers. The reference here is a plain computation of its rules, one answer at a time."""

import json
import math
import time

import numpy as np
import pytest
from eval_fixtures import answer

from eval.evaluate import evaluate
from eval.open_loop.displacement import COLUMNS
from eval.open_loop.predictions_file import read_file
from eval.open_loop.release_format import complete_points, measure_printed, printed_points
from nsdrive.vla.prompt import render_answer

HORIZONS = {"1s": 2, "2s": 4, "3s": 6, "5s": 10}


def one_answer(predicted, label):
    """The numbers of one answer by the release's rules: up to as many points as both have."""
    found = {}
    for horizon, wanted in HORIZONS.items():
        n = min(wanted, len(predicted), len(label))
        gaps = [math.dist(predicted[k], label[k]) for k in range(n)]
        turns = []
        for k in range(n):
            a, b = (
                math.atan2(p[k][1] - (p[k - 1][1] if k else 0.0), p[k][0] - (p[k - 1][0] if k else 0.0))
                for p in (predicted, label)
            )
            turns.append(math.degrees(math.acos(max(-1.0, min(1.0, math.cos(a - b))))))
        found |= {f"{horizon}/ADE": sum(gaps) / n, f"{horizon}/FDE": gaps[-1], f"{horizon}/MR": float(gaps[-1] > 2.0)}
        found |= {f"{horizon}/AHE": sum(turns) / n, f"{horizon}/FHE": turns[-1]}
    return found


def as_text(points, *, words=""):
    return f"<REASONING>[1, 2]</REASONING>\n<PLANNING>{words}{', '.join(f'[{x:.2f}, {y:.2f}]' for x, y in points)}</PLANNING>"


def padded(points):
    table = np.zeros((1, 10, 2))
    table[0, : len(points)] = points[:10]
    return table, np.array([min(len(points), 10)])


def test_answers_of_any_length_are_measured_up_to_as_many_points_as_they_have():
    rng = np.random.default_rng([1])
    for n in (1, 2, 3, 5, 6, 9, 10, 11, 1000):
        label = np.round(np.cumsum(rng.uniform(0.0, 4.0, (10, 2)), axis=0), 2)
        predicted = np.round(np.cumsum(rng.uniform(-0.5, 4.0, (n, 2)), axis=0), 2)
        read = printed_points(as_text(predicted))
        table = measure_printed(*padded(read), *padded(label.tolist()))
        for column, wanted in one_answer(predicted.tolist(), label.tolist()).items():
            assert table[0, COLUMNS.index(column)] == pytest.approx(
                wanted, rel=1e-9, abs=1e-5 if "HE" in column else 1e-9
            )


def test_a_one_point_answer_is_scored_as_three_seconds():
    table = measure_printed(*padded([(4.0, 3.0)]), *padded([(4.0 * k, 0.0) for k in range(1, 11)]))
    assert [table[0, COLUMNS.index(f"{h}/FDE")] for h in HORIZONS] == [3.0] * 4
    assert table[0, COLUMNS.index("3s/MR")] == 1.0
    assert table[0, COLUMNS.index("3s/FHE")] == pytest.approx(math.degrees(math.atan2(3.0, 4.0)))


def test_a_step_of_a_centimetre_has_the_heading_of_its_noise():
    noise = [(0.0, 0.01 * k) for k in range(1, 11)]
    table = measure_printed(*padded(noise), *padded([(0.01 * k, 0.0) for k in range(1, 11)]))
    assert table[0, COLUMNS.index("3s/AHE")] == 90.0


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("[1, 2]", []),  # no block
        ("<PLANNING>", []),
        ("<PLANNING>[1, 2]", [(1, 2)]),  # never closed
        ("<PLANNING>[1, 2]</PLANNING> [3, 4]", [(1, 2)]),
        ("<PLANNING>[1, 2]</PLANNING><PLANNING>[3, 4]</PLANNING>", [(1, 2)]),  # the first block
        ("<PLANNING>[1, 2] <PLANNING>[3, 4]</PLANNING>", [(1, 2), (3, 4)]),
        ("<planning>[1, 2]</planning>", []),
        ("<PLANNING>[x, y]: [1., -2.50],[3,\n4]</PLANNING>", [(1, -2.5), (3, 4)]),
        (
            "<PLANNING>[+1, 2], [1e3, 2], [.5, 2], [nan, 2], [ 1, 2], [1 , 2], [1, 2 ], [1, 2, 3], [--1, 2]</PLANNING>",
            [],
        ),
        ("<PLANNING>[1e400, nan]</PLANNING>", []),
        (f"<PLANNING>[{'9' * 400}, 2]</PLANNING>", [(math.inf, 2)]),
        ("<PLANNING>[१, २]</PLANNING>", [(1, 2)]),  # digits of any script are digits to the release's pattern
        ("", []),
    ],
)
def test_what_the_release_takes_for_points(text, points):
    assert printed_points(text) == points


@pytest.mark.parametrize(
    "filling",
    [
        "[" + "1" * 1_000_000,
        "[" + "1." * 500_000,
        "<PLANNING>" * 100_000,
        "[ " * 500_000,
        "[1," + " " * 1_000_000,
        "[1" * 500_000,
    ],
    ids=["digits", "dots", "opens", "brackets", "spaces", "beginnings"],
)
def test_a_text_of_a_megabyte_is_read_in_a_blink(filling):
    started = time.process_time()
    assert len(printed_points(f"<PLANNING>{filling}</PLANNING>")) == 0
    assert complete_points(f"<PLANNING>{filling}</PLANNING>")[0] is None
    assert time.process_time() - started < 3.0  # a pattern that backtracks twice takes hours


def test_strict_reads_an_answer_with_the_release_s_sentence_in_it():
    points = [(k + 0.5, -0.25) for k in range(10)]
    said = "Predicted future movement. The output is formatted as [x, y]: "
    assert complete_points(as_text(points, words=said)) == (points, None)
    assert complete_points(as_text(points[:9])) == (None, "9 waypoints, expected 10")
    assert complete_points(as_text(points * 100)) == (None, "more than 10 waypoints, expected 10")
    assert complete_points(as_text(points).replace("</PLANNING>", ""))[0] is None
    assert complete_points(as_text(points) * 2)[1] == "2 PLANNING blocks, expected 1"
    assert complete_points(as_text([(1e4, 0.0), *points[1:]]))[1] == "a waypoint is not finite or beyond 1000 m"


# ---- whole files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path, samples):
    """The release's rows for the twelve samples: noisy answers, three of them as no reader wants them."""
    rng = np.random.default_rng([4])
    rows = []
    for k, sample in enumerate(samples):
        points = np.round(sample.waypoints_ego_m + rng.normal(0.0, 1.5, (10, 2)), 2)
        rows.append({"orig_idx": k, "id": sample.sample_id, "predict": as_text(points), "label": sample.answer})
    rows[2]["predict"] = "I would rather walk"
    rows[5]["predict"] = as_text([(3.0, 1.0)])
    rows[7] |= {"predict": "", "error": "RuntimeError: out of memory"}
    return rows


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def wanted_parsed(rows, samples):
    labels = {s.sample_id: printed_points(s.answer) for s in samples}
    each = [one_answer(printed_points(r["predict"]), labels[r["id"]]) for r in rows if printed_points(r["predict"])]
    return {column: float(np.mean([one[column] for one in each])) for column in COLUMNS}, len(each)


def wanted_parsed_by_place(rows, samples):
    known = [row | {"id": sample.sample_id} for row, sample in zip(rows, samples, strict=True)]
    return wanted_parsed(known, samples)[0]["3s/ADE"]


@pytest.mark.parametrize("shape", ["lines", "list"])
@pytest.mark.parametrize("labels", ["dataset", "own", "json list"])
def test_the_release_s_files_are_measured_as_they_are_and_give_its_numbers(
    shape, labels, release, samples, dataset, tmp_path
):
    path = write_lines(tmp_path / "m.jsonl", release)
    if shape == "list":
        path = tmp_path / "m.json"
        path.write_text(json.dumps(release, indent=2))
    items = tmp_path / "labels.json"
    items.write_text(json.dumps([{"id": s.sample_id, "messages": s.to_row()["messages"]} for s in samples]))
    given = {"dataset": dataset, "own": None, "json list": items}[labels]
    entry = evaluate([path], given, tmp_path / "out")["predictions"]["m"]
    wanted, counted = wanted_parsed(release, samples)
    assert (entry["n"], entry["parsed_n"], entry["parse_failures"]) == (12, counted, 3)
    for column, number in wanted.items():
        horizon, measure = column.split("/")
        assert entry["parsed"][horizon][measure]["value"] == pytest.approx(number, abs=1e-5 if "HE" in column else 2e-6)
    assert entry["failures"]["RuntimeError: out of memory"] == 1
    assert entry["strict"]["3s"]["ADE"]["value"] > entry["parsed"]["3s"]["ADE"]["value"]


def test_without_a_dataset_there_are_groups_by_speed_and_length_and_no_baselines(release, tmp_path):
    results = evaluate([write_lines(tmp_path / "m.jsonl", release)], None, tmp_path / "out")
    entry = results["predictions"]["m"]
    assert {title for title in entry if title.startswith("by_")} == {"by_speed", "by_length"}
    assert sum(group["n"] for group in entry["by_speed"].values()) == 12
    assert results["baselines"] == {}
    assert results["dataset"]["folder"] is None
    assert results["controls_missing"] == {}


def test_a_label_that_cannot_be_read_is_left_out_and_counted(release, tmp_path):
    release[3]["label"] = "none"
    results = evaluate([write_lines(tmp_path / "m.jsonl", release)], None, tmp_path / "out")
    assert results["dataset"]["unreadable_labels"] == 1
    assert (results["predictions"]["m"]["n"], results["predictions"]["m"]["rows"]["no_label"]) == (11, 1)


def test_a_short_label_is_measured_as_far_as_it_goes(release, samples, tmp_path):
    release[0] |= {
        "label": as_text(samples[0].waypoints_ego_m[:6]),
        "predict": as_text(samples[0].waypoints_ego_m + 1.0),
    }
    entry = evaluate([write_lines(tmp_path / "m.jsonl", release[:1])], None, tmp_path / "out")["predictions"]["m"]
    assert entry["strict"]["3s"]["ADE"]["value"] == pytest.approx(math.sqrt(2.0), abs=0.01)
    assert entry["strict"]["5s"]["ADE"]["value"] is None


def test_a_row_without_a_known_id_is_found_by_its_place_in_the_list(release, samples, tmp_path):
    items = tmp_path / "labels.json"
    listed = [{"messages": s.to_row()["messages"]} for s in samples]
    items.write_text(json.dumps([*listed[:4], "no item", *listed[4:]]))
    for row in release[4:]:
        row["orig_idx"] += 1
    for row in release:
        row["id"] = f"another name for {row['orig_idx']}"
    entry = evaluate([write_lines(tmp_path / "m.jsonl", release)], items, tmp_path / "out")["predictions"]["m"]
    assert (entry["rows"]["answered"], entry["rows"]["unknown_ids"]) == (12, 0)
    assert entry["parsed"]["3s"]["ADE"]["value"] == pytest.approx(wanted_parsed_by_place(release, samples), abs=2e-6)


def test_labels_of_another_version_of_the_dataset_are_warned_of(release, dataset, tmp_path):
    release[1]["label"] = release[2]["label"]
    results = evaluate([write_lines(tmp_path / "m.jsonl", release)], dataset, tmp_path / "out")
    assert results["predictions"]["m"]["rows"]["other_label"] == 1
    assert any("another label than the dataset's" in line for line in results["warnings"])


def test_a_number_beyond_a_float_makes_the_parsed_mean_unknown_and_strict_a_miss(release, dataset, tmp_path):
    release[0]["predict"] = f"<PLANNING>[{'9' * 400}, 0]</PLANNING>"
    entry = evaluate([write_lines(tmp_path / "m.jsonl", release)], dataset, tmp_path / "out")["predictions"]["m"]
    assert entry["parsed"]["3s"]["ADE"] == {"value": None, "low": None, "high": None}
    assert entry["parse_failures"] == 4


def test_of_two_items_of_a_list_with_one_id_the_last_is_the_label(release, samples, tmp_path):
    listed = [{"id": s.sample_id, "messages": s.to_row()["messages"]} for s in samples]
    items = tmp_path / "labels.json"
    items.write_text(json.dumps([listed[1] | {"id": "s00"}, *listed]))
    entry = evaluate([write_lines(tmp_path / "m.jsonl", release)], items, tmp_path / "out")["predictions"]["m"]
    assert entry["n"] == 12
    assert entry["parsed"]["3s"]["ADE"]["value"] == pytest.approx(
        wanted_parsed(release, samples)[0]["3s/ADE"], abs=2e-6
    )


# ---- what a file may hold -------------------------------------------------------------------------------------------


def test_broken_lines_are_counted_by_number_and_reason_and_the_others_read(tmp_path, samples):
    good = [json.dumps(answer(s).to_row()).encode() for s in samples[:4]]
    lines = [
        good[0],
        b'{"id": "x", "te',
        b"\xff\xfe\x00",
        good[1],
        b"",
        b"[" * 100_000,
        b'{"text": "no id"}',
        good[2],
        b"null",
    ]
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*lines, good[3]]))
    file = read_file(path)
    assert file.ids == [s.sample_id for s in samples[:4]]
    assert [b.number for b in file.broken] == [2, 3, 6, 7, 9]
    assert file.broken[3].reason == "it has no id"
    assert [file.prediction(k).text for k in range(4)] == [s.answer for s in samples[:4]]


def test_a_file_without_a_single_row_is_an_error_that_says_what_a_row_is(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("step,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"none of its 2 lines is a prediction; line 1: not JSON.*A row has an id"):
        read_file(path)


def test_a_list_that_breaks_off_is_read_as_far_as_it_goes(tmp_path, release):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(release)[:-40])
    file = read_file(path)
    assert file.ids == [row["id"] for row in release[:-1]]
    assert len(file.broken) == 1


def test_waypoints_without_a_text_are_read_as_they_would_be_printed(tmp_path, samples):
    row = answer(samples[0], samples[0].waypoints_ego_m + 0.004).to_row() | {"text": ""}
    file = read_file(write_lines(tmp_path / "m.jsonl", [row]))
    np.testing.assert_allclose(file.printed_m[0], np.round(samples[0].waypoints_ego_m + 0.004, 2))


def test_a_text_that_prints_other_waypoints_than_are_measured_is_told(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s) for s in samples]
    rows[2] = answer(samples[2], text=render_answer("", samples[2].waypoints_ego_m + 1.0))
    results = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out")
    assert results["predictions"]["m"]["rows"]["text_differs"] == 1
    assert any("print other waypoints" in line for line in results["warnings"])


def test_a_megabyte_of_html_is_an_answer_like_any_other(dataset, samples, write_predictions, tmp_path):
    rows = [answer(s).to_row() for s in samples]
    rows[0]["text"] = "<script>alert(1)</script>" * 40_000 + samples[0].answer
    rows[1] |= {"text": "<img src=x onerror=alert(1)>" * 40_000, "waypoints_ego_m": None}
    entry = evaluate([write_predictions("m", rows)], dataset, tmp_path / "out", reasoning=False)["predictions"]["m"]
    assert (entry["parse_failures"], entry["failures"]) == (1, {"0 PLANNING blocks, expected 1": 1})
    assert entry["strict"]["1s"]["ADE"]["value"] == pytest.approx(10.0 / 12.0)


def test_rows_of_predict_and_label_alone_are_named_by_their_line(tmp_path):
    answer = "<PLANNING>" + ", ".join(f"[{k}.00, 0.00]" for k in range(1, 11)) + "</PLANNING>"
    path = tmp_path / "out.jsonl"
    path.write_text(
        json.dumps({"predict": answer, "label": answer}) + "\n" + json.dumps({"predict": "", "label": answer}) + "\n"
    )
    results = evaluate([path], None, tmp_path / "e")
    entry = results["predictions"]["out"]
    assert (entry["n"], entry["parse_failures"], entry["parsed"]["3s"]["ADE"]["value"]) == (2, 1, 0.0)
