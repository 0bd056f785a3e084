"""A pair is one moment twice, with one thing different: what is made, what is true of it, and what cannot be made."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from argoverse2_builder import write_sensor_log

from data_gen.check import check
from data_gen.edit_show import show_edit
from data_gen.generate import GenerateConfig, generate
from data_gen.pairs import CAUSAL_M, STILL_M, kind_of, scenario_of
from data_gen.recompute import Job, Stored, recompute
from data_gen.sample import LeftOut, Made, SampleConfig, samples_of
from nsdrive.cameras.rig import make_rig
from nsdrive.config import Chosen
from nsdrive.dataset import json_line, lines_of, open_dataset, sha256_of
from nsdrive.scenarios.argoverse2 import Argoverse2Config, Argoverse2Source
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.synthetic import SyntheticConfig
from planners.idm import IdmConfig, IdmPlanner
from planners.pdm_lanes import PdmLanesConfig, PdmLanesPlanner

MAKE_PLANNER = partial(IdmPlanner, IdmConfig())
SMALL = make_rig("3", width_px=160, height_px=90)


def config(**changes):
    scenarios = SyntheticConfig(seed=600, n_scenarios=3, families=("slow_lead", "red_light", "free_road"))
    samples = SampleConfig(anchors_per_scenario=1, images="rendered", edits=("auto",), **changes)
    return GenerateConfig(
        scenarios=Chosen(name="synthetic", config=scenarios),
        planner=Chosen(name="idm", config=IdmConfig()),
        image_width_px=160,
        image_height_px=90,
        samples=samples,
        train_share=0.0,
        val_share=0.0,
        scenarios_per_chunk=1,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "set"
    assert generate(config(), MAKE_PLANNER, out=out).failures == ()
    return out


@pytest.fixture(scope="module")
def pairs(folder):
    """(before, after) of every after sample."""
    samples = {s.sample_id: s for s in open_dataset(folder).samples("test")}
    return [(samples[s.extra["edit"]["of"]], s) for s in samples.values() if "edit" in s.extra]


def hashes(folder):
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


class StoppedError(Exception):
    pass


@pytest.mark.slow  # the mechanism is that of every data set (test_generate); here two processes draw pairs
def test_a_stopped_run_that_two_workers_go_on_with_writes_the_same_bytes_as_one(folder, tmp_path):
    def stop(done, total):
        if done == 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        generate(config(), MAKE_PLANNER, out=tmp_path / "set", progress=stop)
    generate(config(), MAKE_PLANNER, out=tmp_path / "set", resume=True, workers=2)
    assert hashes(tmp_path / "set") == hashes(folder)


def test_check_makes_every_pair_again(folder):
    found = check(open_dataset(folder), config(), MAKE_PLANNER)
    assert found.problems == ()
    assert found.recomputed == found.samples == open_dataset(folder).manifest["samples"]


def test_check_sees_a_pair_that_is_not_true(folder, pairs, tmp_path):
    """One whose motion is told wrong, and one that the scenario does not make."""
    (_, told), (_, named) = pairs[:2]
    lied = replace(told, extra={**told.extra, "edit": {**told.extra["edit"], "moved_at_3s_m": 99.0}})
    gone = replace(named, sample_id=named.sample_id + "-too")
    shard = tmp_path / "test-0.jsonl"
    shard.write_text("".join(json_line(sample.to_row()) for sample in (lied, gone)))
    stored = tuple(
        Stored.of(line, sample.sample_id, "test") for line, sample in zip(lines_of(shard), (lied, gone), strict=True)
    )
    job = Job(item=told.extra["item"], stored=stored, folder=folder, config=config(), make_planner=MAKE_PLANNER)
    problems = recompute(job).problems
    assert any("moved_at_3s_m is 99.0" in problem for problem in problems)
    assert any(gone.sample_id in problem and "yields no such sample" in problem for problem in problems)


def test_both_of_a_pair_have_the_same_past_and_state(pairs):
    assert len(pairs) >= 6
    for before, after in pairs:
        assert after.sample_id == f"{before.sample_id}+{after.extra['edit']['name']}"
        assert "edit" not in before.extra
        assert (after.scenario_id, after.anchor, after.ego_history) == (
            before.scenario_id,
            before.anchor,
            before.ego_history,
        )
        assert np.array_equal(after.future[0, :4], before.future[0, :4])
        assert {image.rpartition("/")[2] for image in after.images} == {i.rpartition("/")[2] for i in before.images}
        assert not set(after.images) & set(before.images)


def test_there_are_edits_that_move_the_planner_and_edits_that_leave_it(pairs):
    kinds = []
    for before, after in pairs:
        off = np.linalg.norm(after.waypoints_ego_m - before.waypoints_ego_m, axis=1)
        edit = after.extra["edit"]
        assert edit["moved_m"] == pytest.approx(off[:6].mean(), abs=0.02)
        assert edit["moved_at_3s_m"] == pytest.approx(off[5], abs=0.02)
        kinds.append(kind_of(edit["moved_m"], edit["moved_at_3s_m"]))
        assert (edit["moved_at_3s_m"] > CAUSAL_M) == (kinds[-1] == "moves")
        assert (edit["moved_m"] < STILL_M) == (kinds[-1] == "stays")
        assert edit["shows"], "neither the images nor the prompt tell of it"
    assert set(kinds) == {"moves", "stays"}
    for before in {before.sample_id for before, _ in pairs}:
        mine = [kind for kind, (b, _) in zip(kinds, pairs, strict=True) if b.sample_id == before]
        assert max(mine.count("moves"), mine.count("stays")) <= 2


def test_removing_what_binds_moves_the_planner_and_removing_what_nobody_decided_by_does_not(pairs):
    binds = [(b, a) for b, a in pairs if a.extra["edit"]["text"] == "remove lead" and b.binding_rule == "lead"]
    assert binds
    for _, after in binds:
        assert after.extra["edit"]["moved_at_3s_m"] > CAUSAL_M
        assert after.extra["edit"]["about"] not in {o["id"] for o in after.extra["objects"]}
    for before, after in pairs:
        edit = after.extra["edit"]
        if edit["sort"] == "remove another":
            assert (edit["moved_m"] < STILL_M) == (after.binding_rule == before.binding_rule)


def test_everything_else_looks_as_it_did(folder, pairs):
    """Nobody changes colour, no tree vanishes: what is added beside the road changes no more than its own pixels."""
    added = [(b, a) for b, a in pairs if a.extra["edit"]["sort"].startswith("add ")]
    assert added
    for before, after in added:
        about = after.extra["edit"]["about"]
        for old, new in zip(before.images, after.images, strict=True):
            camera = new.rpartition("/")[2].removesuffix(".jpg")
            was, now = (cv2.imread(str(folder / image)).astype(int) for image in (old, new))
            other = int((np.abs(was - now).max(axis=2) > 40).sum())
            own = after.extra["seen"][camera].get(about, 0)
            assert other <= 2.0 * own + 20, f"{new}: {other} pixels changed for an object of {own}"


def test_a_sample_s_scenario_is_made_again_edit_and_all(folder, pairs):
    source = open_source("synthetic", config().scenarios.config)
    for sample in (sample for pair in pairs for sample in pair):
        scenario = scenario_of(source, sample)
        frame = scenario.frames[sample.anchor["tick"]]
        there = {frame.ids[row]: frame[row] for row in range(len(frame))}
        assert {o["id"] for o in sample.extra["objects"]} <= set(there)
        for told in sample.extra["objects"]:
            assert there[told["id"]].speed_mps == pytest.approx(told["speed_mps"], abs=1e-3)
        edit = sample.extra.get("edit")
        if edit and edit["text"].startswith("remove"):
            assert edit["about"] not in there


def test_the_card_counts_the_pairs(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    counts = open_dataset(folder).manifest["counts"]
    assert "## Minimal pairs" in card
    moves, stays = (sum(counts[f"edit_{kind}"].values()) for kind in ("moves", "stays"))
    assert f"| all | {sum(counts['edit'].values())} | {moves} | {stays} | 0 |" in card


def test_named_edits_are_made_wherever_they_apply_whatever_they_do():
    source = open_source("synthetic", config().scenarios.config)
    wanted = replace(config().samples, edits=("remove binding", "add pedestrian@30m", "light green"))
    sorts = {}
    for item in source.items():
        found = list(samples_of(source.load(item), MAKE_PLANNER(), SMALL, wanted, item=item))
        sorts[item.split("-")[1]] = [
            m.sample.extra["edit"]["text"] for m in found if isinstance(m, Made) and "edit" in m.sample.extra
        ]
    assert "remove lead" in sorts["slow_lead"]
    assert "light green" in sorts["red_light"]
    assert "light green" not in sorts["free_road"]


def test_an_edited_scene_in_which_the_teacher_crashes_is_left_out_and_counted():
    source = open_source("synthetic", SyntheticConfig(seed=600, n_scenarios=1, families=("free_road",)))
    item = source.items()[0]
    wanted = replace(config().samples, edits=("add pedestrian@1m",))
    found = list(samples_of(source.load(item), MAKE_PLANNER(), SMALL, wanted, item=item))
    assert isinstance(found[0], Made)
    assert found[1:] == [LeftOut(tick=20, reason="after_at_fault_collision", edit="add-pedestrian-1m")]


@pytest.mark.slow
def test_a_planner_that_weighs_proposals_makes_pairs_that_pass_the_check(tmp_path):
    chosen = replace(config(), planner=Chosen(name="pdm_lanes", config=PdmLanesConfig()))
    make_planner = partial(PdmLanesPlanner, PdmLanesConfig())
    made = generate(chosen, make_planner, out=tmp_path / "set")
    assert made.failures == ()
    counts = open_dataset(tmp_path / "set").manifest["counts"]
    assert counts["edit_moves"]
    assert counts["edit_stays"]
    assert check(open_dataset(tmp_path / "set"), chosen, make_planner).problems == ()


@pytest.mark.parametrize("label", ["rollout", "plan"])
def test_pairs_come_from_real_logs_as_well(tmp_path, label):
    write_sensor_log(tmp_path / "log-a")
    source = Argoverse2Source(Argoverse2Config(path=str(tmp_path)))
    item = source.items()[0]
    wanted = replace(config().samples, label=label)
    made = [
        m.sample for m in samples_of(source.load(item), MAKE_PLANNER(), SMALL, wanted, item=item) if isinstance(m, Made)
    ]
    afters = [sample for sample in made if "edit" in sample.extra]
    assert afters
    for after in afters:
        assert after.extra["image_source"] == "rendered"
        before = next(sample for sample in made if sample.sample_id == after.extra["edit"]["of"])
        assert after.ego_history == before.ego_history


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": "auto"}, "samples.edits needs samples.images=rendered"),
        ({"agents": "reactive"}, "samples.edits needs samples.agents=replay"),
        ({"label": "human"}, "samples.edits needs samples.label=rollout or plan"),
        ({"edits": ("remvoe lead",)}, "Did you mean 'remove'"),
        ({"edits_per_anchor": 0}, "at least 1"),
    ],
)
def test_settings_of_which_no_pairs_can_be_made_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(config().samples, **changes)


def test_the_config_that_comes_with_nsdrive_makes_pairs():
    from nsdrive.cli import load_generate_config

    loaded = load_generate_config("data/pairs", [])
    assert loaded.samples.edits == ("auto",)
    assert (loaded.train_share, loaded.val_share) == (0.0, 0.0)


def test_an_edited_scene_is_shown_beside_the_one_that_it_was(tmp_path):
    shown = show_edit("red_light", ["light green"], MAKE_PLANNER, rig="3", at_s=5.0, seed=3, out=tmp_path / "show")
    assert shown.binding[0].startswith("red_light")
    assert not shown.binding[1].startswith("red_light")
    assert shown.moved_m[5] > shown.moved_m[3] > CAUSAL_M
    assert any(line.startswith("-red_light") for line in shown.lines)
    assert all(path.is_file() for path in shown.files)
    sheet = cv2.imread(str(tmp_path / "show" / "sheet.png"))
    half = sheet.shape[1] // 2
    assert sheet.std() > 20.0
    assert (sheet[:, : half - 10] != sheet[:, -(half - 10) :]).any()


def test_several_edits_are_shown_together_and_one_that_does_not_apply_is_named(tmp_path):
    both = ["light green", "add vehicle@40m"]
    shown = show_edit("red_light", both, MAKE_PLANNER, rig="3", at_s=4.0, seed=3, out=tmp_path / "both")
    assert len(shown.words) == 2
    assert shown.binding[1].startswith("lead")
    with pytest.raises(ValueError, match="No lead"):
        show_edit("free_road", ["remove lead"], MAKE_PLANNER, rig="3", at_s=3.0, seed=3, out=tmp_path / "none")


def test_the_pictures_of_an_edit_are_replaced_only_when_asked_for_and_a_stranger_s_folder_never(tmp_path):
    def shown(out, edit="remove vehicle-1", **more):
        return show_edit("slow_lead", [edit], MAKE_PLANNER, rig="3", at_s=3.0, seed=3, out=out, **more)

    first = shown(tmp_path / "one")
    assert "vehicle-1" in first.lines[1]  # by the name that the text gave it
    was = (tmp_path / "one" / "sheet.png").read_bytes()
    with pytest.raises(ValueError, match="--overwrite"):
        shown(tmp_path / "one")
    with pytest.raises(ValueError, match="No 'nobody'"):
        shown(tmp_path / "one", "remove nobody", overwrite=True)
    assert (tmp_path / "one" / "sheet.png").read_bytes() == was
    shown(tmp_path / "one", "remove lead", overwrite=True)
    assert (tmp_path / "one" / "sheet.png").read_bytes() != was
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to_anna.txt").write_text("Dear Anna")
    with pytest.raises(ValueError, match="something else"):
        shown(tmp_path / "letters", overwrite=True)


def test_a_dataset_in_which_no_edit_applied_says_so(tmp_path):
    from data_gen.generate import Generated

    made = Generated(folder=tmp_path, n_samples=4, failures=(), left_out={}, n_edited=0)
    assert (
        made.summary()
        == "4 samples, 0 of them of edited scenes: no edit of samples.edits applies anywhere, 0 scenarios failed"
    )
