import base64
import dataclasses
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from eval_fixtures import answer, digest, reasoning_text, write_dataset
from scenes import scene, straight_road

from eval.closed_loop.drive import summary
from eval.evaluate import evaluate
from eval.open_loop.baselines import write_baseline
from eval.report.browser import script
from eval.report.cases import choose
from eval.report.compose import report
from eval.report.figures import nice_ticks
from eval.score import CLOSED_LOOP_SCORE_VERSION, TERMS
from nsdrive.dataset import Prediction
from nsdrive.vla.prompt import render_answer

ATTACK = '</pre><script>alert("x")</script><img src=x onerror=alert(1)>前方红灯'


class Page(HTMLParser):
    """Tags that opened and closed, attributes, and whether they nest."""

    VOID = ("meta", "img", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.balanced = [], [], [], True
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first test leaves its evaluation for the others: measuring is not what they are about."""
    return tmp_path_factory.mktemp("kept") / "all"


@pytest.fixture
def evaluated(dataset, samples, write_predictions, tmp_path, kept):
    if kept.exists():
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
        return tmp_path / "eval"
    rng = np.random.default_rng([11])
    rows = [answer(s, (s.waypoints_ego_m + rng.normal(0, 0.3, (10, 2))).round(2)) for s in samples]
    rows[2] = Prediction(sample_id="s02", text=ATTACK, waypoints_ego_m=None, error=f"0 blocks {ATTACK}", seconds=0.3)
    write_baseline("oracle", dataset, "test", tmp_path / "oracle.jsonl")
    files = {"tiny|<b>vla": write_predictions("tiny", rows), "oracle": tmp_path / "oracle.jsonl"}
    evaluate(files, dataset, tmp_path / "eval", about={"tiny|<b>vla": "random weights & 60 steps"})
    shutil.copytree(tmp_path, kept)
    return tmp_path / "eval"


def data_of(text):
    """What the page's own script is given."""
    return json.loads(
        re.search(r'<script type="application/json" id="browser-data">(.*?)</script>', text, re.S).group(1)
    )


def test_the_page_is_whole_and_loads_nothing(evaluated, tmp_path):
    text = report([evaluated], tmp_path / "report").read_text(encoding="utf-8")
    page = Page(text)
    assert page.balanced
    assert page.open == []
    assert not {"iframe", "link", "object", "embed", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert {value[0] for name, value in page.attributes if name in ("src", "href")} == {"#"}
    assert "url(" not in text
    details = data_of(text)[0]["details"]
    assert len(details) == 12
    images = [camera["image"] for detail in details.values() for camera in detail["cameras"]]
    assert len(images) == 36
    assert {image[:23] for image in images} == {"data:image/jpeg;base64,"}


def test_one_script_may_run_and_it_is_ours(evaluated, tmp_path):
    text = report([evaluated], tmp_path / "report").read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert scripts == [script()]
    hashed = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert f"script-src 'sha256-{hashed}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert policy.count("unsafe") == 1  # of styles
    assert text.count("<script") == 2  # and the data


def test_what_a_model_writes_is_shown_and_not_run(evaluated, tmp_path):
    path = report([evaluated], tmp_path / "report")
    for text in (path.read_text(encoding="utf-8"), (path.parent / "report.md").read_text(encoding="utf-8")):
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "<b>vla" not in text
        assert "前方红灯" in text
    shown = data_of(path.read_text(encoding="utf-8"))[0]["details"]["s02"]["answers"]["tiny|<b>vla"]
    assert shown["lines"][0]["text"] == ATTACK
    assert "&lt;script&gt;" in path.read_text(encoding="utf-8")  # the reason that the table of failures gives


def test_the_numbers_of_the_results_stand_in_both_reports(evaluated, tmp_path):
    path = report([evaluated], tmp_path / "report")
    for text in (path.read_text(encoding="utf-8"), (path.parent / "report.md").read_text(encoding="utf-8")):
        plain = re.sub(r"<[^>]*>|\\", "", text)
        for name in ("constant_velocity", "blind_idm", "oracle", "red_light", "near_lead", "random weights"):
            assert name in plain or (name == "random weights" and "|" in plain)
        assert "Small sample: 12 samples of 6 scenarios" in plain
        assert "nsdrive evaluate --predictions" in plain
        assert "not comparable" in plain or "# Driving" in plain


def test_the_same_evaluation_gives_the_same_bytes(evaluated, tmp_path):
    for name in ("a", "b"):
        report([evaluated], tmp_path / name)
    for file in ("report.html", "report.md"):
        assert digest(tmp_path / "a" / file) == digest(tmp_path / "b" / file)


def test_an_earlier_report_is_not_overwritten_unasked(evaluated, tmp_path):
    report([evaluated], tmp_path / "report")
    with pytest.raises(ValueError, match="has a report"):
        report([evaluated], tmp_path / "report")
    report([evaluated], tmp_path / "report", overwrite=True)


def test_a_folder_without_results_is_told_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="nsdrive evaluate --predictions"):
        report([tmp_path], tmp_path / "report")


def test_the_road_of_a_sample_s_own_scene_is_drawn_where_it_can_be_had(evaluated, tmp_path):
    asked = []

    def scene_of(sample):
        asked.append(sample.sample_id)
        if len(asked) == 2:
            raise ValueError("the log <moved>")
        return scene(straight_road())

    text = report([evaluated], tmp_path / "report", scenes=lambda dataset: scene_of).read_text(encoding="utf-8")
    assert len(asked) == 12
    details = list(data_of(text)[0]["details"].values())
    assert sum(bool(detail["above"]["road"]) for detail in details) == 11
    assert details[1]["noRoad"] == "The road is not drawn: the log <moved>"
    assert "The road is not drawn: the log <" not in text


def test_without_the_dataset_the_tables_remain(evaluated, dataset, tmp_path):
    dataset.folder.rename(tmp_path / "elsewhere")
    text = report([evaluated], tmp_path / "report").read_text(encoding="utf-8")
    assert "no sample in full: No dataset folder" in text
    assert "blind_" in text
    (browser,) = data_of(text)
    assert browser["details"] == {}
    assert len(browser["table"]["rows"]) == 12


def test_answers_that_changed_since_are_not_shown(evaluated, tmp_path):
    with (tmp_path / "tiny.jsonl").open("a") as file:
        file.write("\n")
    text = report([evaluated], tmp_path / "report").read_text(encoding="utf-8")
    assert "has changed since it was evaluated" in text
    assert "tiny|<b>vla" not in data_of(text)[0]["details"]["s00"]["answers"]


def test_a_picture_that_is_none_and_a_path_that_leaves_are_survived(samples, write_predictions, tmp_path):
    bad = [
        dataclasses.replace(samples[0], images=("images/s00/CAM_F0.jpg", "images/s00/CAM_R0.jpg")),
        *samples[1:],
    ]
    dataset = write_dataset(tmp_path / "data", bad)
    (tmp_path / "data/images/s00/CAM_F0.jpg").write_bytes(b"no picture")
    (tmp_path / "data/images/s00/CAM_R0.jpg").unlink()
    (tmp_path / "data/images/s00/CAM_R0.jpg").symlink_to("/etc/hostname")
    evaluate([write_predictions("m", [*map(answer, bad)])], dataset, tmp_path / "eval")
    text = report([tmp_path / "eval"], tmp_path / "report").read_text(encoding="utf-8")
    assert [camera["image"] for camera in data_of(text)[0]["details"]["s00"]["cameras"]] == [None, None]


def test_a_sample_of_misshapen_data_is_named_and_the_others_are_shown(samples, write_predictions, tmp_path):
    nowhere = tuple({k: v for k, v in h.items() if k != "x_m"} for h in samples[0].ego_history)
    bad = [
        dataclasses.replace(samples[0], ego_history=nowhere),
        dataclasses.replace(samples[1], rig={"cameras": "none"}, extra={"objects": {}, "seen": 3, "edit": "none"}),
        *samples[2:],
    ]
    dataset = write_dataset(tmp_path / "data", bad)
    evaluate([write_predictions("m", [*map(answer, samples)])], dataset, tmp_path / "eval")
    text = report([tmp_path / "eval"], tmp_path / "report").read_text(encoding="utf-8")
    assert "s00 is not here in full, its data are misshapen: KeyError" in text
    assert len(data_of(text)[0]["details"]) == 11
    assert data_of(text)[0]["details"]["s01"]["objects"] is None


def test_what_is_shown_in_full_is_chosen_the_same_each_time_and_said(evaluated, tmp_path):
    text = report([evaluated], tmp_path / "report", in_full=4).read_text(encoding="utf-8")
    (browser,) = data_of(text)
    assert [detail["why"][0] for detail in browser["details"].values()] == [
        *(f"worst of {rule}" for rule in ("red_light", "target_speed", "lead")),  # the rule of most answers first
        "failed",
    ]
    assert len(browser["table"]["rows"]) == 12
    assert "4 of 12 samples are here in full" in text


def test_images_stop_where_the_page_would_grow_too_large_and_that_is_said(evaluated, monkeypatch, tmp_path):
    monkeypatch.setattr("eval.report.compose.IMAGE_BYTES", 20_000)
    text = report([evaluated], tmp_path / "report").read_text(encoding="utf-8")
    shown = [[c["image"] is not None for c in d["cameras"]] for d in data_of(text)[0]["details"].values()]
    with_images = sum(map(all, shown))
    assert 0 < with_images < 12
    assert sum(not any(cameras) for cameras in shown) == 12 - with_images
    assert f"The last {12 - with_images} of them are without camera images" in text


def test_both_of_a_minimal_pair_are_shown():
    rows = [{"id": f"s{i:03d}", "error": None, "3s/ADE": i / 100, "binding_rule": "lead"} for i in range(100)] + [
        {"id": "s000+remove-lead", "error": None, "3s/ADE": 9.0, "binding_rule": "target_speed"}
    ]
    chosen = choose(rows, {"s000+remove-lead": "s000"}, limit=10)
    assert len(chosen) == 10
    assert {"s000", "s000+remove-lead", "s099", "s049"} <= set(chosen)
    assert chosen["s000+remove-lead"][0] == "worst of target_speed"
    assert "the other of a pair with s000+remove-lead" in chosen["s000"]
    assert sum(why == ["at random"] for why in chosen.values()) == 0 or list(chosen.values())[-1] == ["at random"]


def test_runs_on_one_split_share_a_table_and_others_do_not(dataset, samples, write_predictions, tmp_path):
    evaluate({"m": write_predictions("a", [*map(answer, samples)])}, dataset, tmp_path / "run_a")
    evaluate({"m": write_predictions("b", [*map(answer, samples)])}, dataset, tmp_path / "run_b")
    other = write_dataset(tmp_path / "other", samples[:6])
    evaluate({"m": write_predictions("c", [*map(answer, samples[:6])])}, other, tmp_path / "run_c")
    text = report([tmp_path / name for name in ("run_a", "run_b", "run_c")], tmp_path / "report").read_text("utf-8")
    assert text.count("<h2>Leaderboard</h2>") == 2
    assert [len(browser["table"]["scores"]) for browser in data_of(text)] == [6, 5]
    assert "run_<wbr>a: m" in text
    assert "run_<wbr>b: m" in text


def test_reasons_have_their_table_and_the_labels_as_floor(samples, write_predictions, tmp_path):
    told = [dataclasses.replace(s, answer=render_answer(reasoning_text(8.0, -1.0), s.waypoints_ego_m)) for s in samples]
    dataset = write_dataset(tmp_path / "data", told)
    rows = [answer(s, text=s.answer) for s in told]
    results = evaluate([write_predictions("m", rows)], dataset, tmp_path / "eval")
    assert results["predictions"]["m"]["observed"] == results["label_observed"]
    text = report([tmp_path / "eval"], tmp_path / "report").read_text(encoding="utf-8")
    assert "Do the reasons agree with the scene and the driving?" in text
    assert "the labels&#x27;<br>own texts" in text
    assert "<td>schema %" in text


def test_a_file_of_the_published_release_has_a_report_though_nothing_else_is_known(samples, tmp_path):
    path = tmp_path / "release.jsonl"
    rows = [{"orig_idx": i, "id": s.sample_id, "predict": s.answer, "label": s.answer} for i, s in enumerate(samples)]
    rows[3]["predict"] = ATTACK
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate([path], None, tmp_path / "eval")
    text = report([tmp_path / "eval"], tmp_path / "report").read_text(encoding="utf-8")
    assert Page(text).balanced
    assert "no sample in full: the labels came with the predictions files" in text
    (browser,) = data_of(text)
    assert browser["table"]["rows"][0] == ["s00", None, None, None]
    assert "By length of the label" in text


def test_a_pair_says_how_far_the_edit_moves_the_label_and_the_answer(samples, write_predictions, tmp_path):
    before = samples[0]
    further = before.waypoints_ego_m + np.column_stack([np.arange(10) * 0.5, np.zeros(10)])
    edit = {"of": "s00", "name": "remove-lead", "words": "the lead is gone <b>", "about": "car-1"}
    after = dataclasses.replace(before, sample_id="s00+remove-lead", waypoints_ego_m=further, extra={"edit": edit})
    pair = [before, after]
    dataset = write_dataset(tmp_path / "data", pair)
    stubborn = [answer(before), answer(after, before.waypoints_ego_m + np.array([0.1, 0.0]))]
    evaluate([write_predictions("m", stubborn)], dataset, tmp_path / "eval")
    details = data_of(report([tmp_path / "eval"], tmp_path / "report").read_text(encoding="utf-8"))[0]["details"]
    assert details["s00+remove-lead"]["edit"] == "the lead is gone <b>"
    assert details["s00+remove-lead"]["moved"] == {"label": 1.25, "answers": {"m": 0.1}}  # mean of 0, 0.5 ... 2.5
    assert details["s00"]["moved"] is None
    assert (details["s00"]["pair"], details["s00+remove-lead"]["pair"]) == (["s00+remove-lead"], ["s00"])


def test_causes_validation_plans_and_missing_controls_have_their_places(evaluated, tmp_path):
    path = evaluated / "results.json"
    results = json.loads(path.read_text())
    cell = {"value": 0.9371, "low": 0.88, "high": 0.97, "n": 17}
    entry = results["predictions"]["tiny|<b>vla"]
    entry["causal"] = {"forced_slope": cell, "forced_rho": cell | {"value": None}, "cut_ade_25": cell}
    entry["pdms"] = {
        "NC": cell,
        "PDMS": cell | {"value": 0.8123},
        "EC": cell | {"value": None, "low": None, "high": None},
    }
    results["controls_missing"] = {
        "tiny|<b>vla": ["nsdrive predict --control black", "nsdrive predict --control no_text"]
    }
    metric = {"name": "forced_slope", "kind": "causal", "better": "one", "axes": ["text_moves"], "must_tell": ["deaf"]}
    metric |= {"values": {"faithful": 0.99, "deaf": 0.0312}, "fails": ["deaf"], "verdict": "does not separate"}
    metric |= {"auroc": {"deaf": {"value": 0.61, "low": 0.5, "high": 0.7}}, "power": {"deaf": 0.4}}
    unclaimed = metric | {"name": "failed_share", "verdict": "no claim"}
    predictors = {"faithful": {"says": "", "holds": {}}, "deaf": {"says": "", "holds": {}}}
    results["validation"] = {"predictors": predictors, "metrics": [metric, unclaimed]}
    path.write_text(json.dumps(results))
    out = report([evaluated], tmp_path / "report")
    html, markdown = out.read_text(encoding="utf-8"), (out.parent / "report.md").read_text(encoding="utf-8")
    plain = re.sub(r"<[^>]*>", " ", html)
    for text in (plain, markdown.replace("\\", "")):
        for expected in (
            "Are the reasons the cause?",
            "0.937",
            "[0.880, 0.970] n 17",
            "Can these measures be believed?",
            "0.03 *",
            "not deaf",
            "What the plans are worth",
            "0.812",
            "2 of its controls are not here",
            "nsdrive predict --control no_text",
        ):
            assert expected in text, expected
        assert "failed_share" not in text.split("What each of them is")[0].split("Can these measures")[-1]
    assert Page(html).balanced
    links = re.findall(r'<a href="#([^"]+)">', html)
    assert {"causes-0", "validation-0", "plans-0", "samples-0"} <= set(links)
    assert all(f'id="{link}"' in html for link in links)


@pytest.mark.parametrize("high", [0.003, 0.1, 0.95, 1.0, 7.0, 10.0, 51.0, 1234.5])
def test_ticks_are_round_and_reach_the_top(high):
    ticks = nice_ticks(high)
    assert ticks[0] == 0.0
    assert ticks[-1] >= high * (1 - 1e-9)
    assert ticks[-2] < high
    assert len(ticks) <= 8


def test_closed_loop_runs_have_their_tables_beside_the_predictions(evaluated, tmp_path):
    drive = {
        "item": "a", "family": None,
        "scenario": "a", "scenario_type": "near_<i>lead", "planner": "idm", "ticks": 130, "collided_with": [],
        "off_road_m": 0.0, "min_ttc_s": None, "min_clearance_m": 1.2, "progress_m": 80.0, "max_abs_jerk_mps3": 2.0,
        "max_abs_lateral_accel_mps2": 0.5, "min_accel_mps2": -2.5, "final_speed_mps": 0.0, "binding_ticks": {"lead": 130},
        "score": 1.0, "terms": dict.fromkeys(TERMS, 1.0),
    }  # fmt: skip
    crash = {"score": 0.0, "terms": dict.fromkeys(TERMS, 1.0) | {"no_ego_at_fault_collisions": 0.0}}
    hit = (
        drive | crash | {"item": "b", "scenario": "b", "collided_with": ["car-1"], "min_ttc_s": 0.4, "progress_m": 60.0}
    )
    failed = {"item": "c", "scenario_type": "near_<i>lead", "error": "<broken>"}
    results = {
        "nsdrive": "0", "score_version": CLOSED_LOOP_SCORE_VERSION, "config": {"agents": "reactive"},
        "scenarios": [drive, hit], "failures": [failed], "summary": summary([drive, hit], [failed]),
    }  # fmt: skip
    (tmp_path / "idm_drive").mkdir()
    (tmp_path / "idm_drive/results.json").write_text(json.dumps(results))
    for folders in ([evaluated, tmp_path / "idm_drive"], [tmp_path / "idm_drive"]):
        path = report(folders, tmp_path / "report", overwrite=True)
        text = path.read_text(encoding="utf-8")
        assert Page(text).balanced
        for expected in (
            "Closed loop",
            "1 of 2",
            "0.3333",
            "no fault 0.00",
            "70.0",
            "0.40",
            "agents: reactive",
            "c: &lt;broken&gt;",
            "near_<wbr>&lt;i",
        ):
            assert expected in text
        assert "Closed loop" in (path.parent / "report.md").read_text(encoding="utf-8")


def test_a_closed_loop_run_without_this_score_is_refused_in_one_line(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/results.json").write_text(json.dumps({"nsdrive": "0", "scenarios": [], "failures": []}))
    with pytest.raises(ValueError, match="score version None, this program 1: run `nsdrive simulate` again"):
        report([tmp_path / "old"], tmp_path / "report")
