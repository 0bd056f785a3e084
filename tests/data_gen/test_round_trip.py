"""Samples of a scenario that went through nuPlan's files are those of the original, but for rounding.

Not compared are the pixels: nuPlan's tables have no place for things' names, by which the renderer chooses what they look like,
nor for trees and houses, which stand elsewhere in the map's frame. So what is seen is compared thing by thing, and of a text
all but the count of what is in view, which turns on who is a pixel above the threshold.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from data_gen.sample import Made, SampleConfig, samples_of
from nsdrive.cameras.rig import make_rig
from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.scenarios.nuplan_write import write_scenario
from nsdrive.scenarios.nuplan_write_log import row_token
from nsdrive.scenarios.synthetic import FAMILIES, SyntheticConfig, SyntheticSource
from planners.idm import IdmPlanner

RIG = make_rig("3", width_px=160, height_px=90)
# Along a rollout in both: a generated scene has no log, what is read back has one.
SAMPLES = SampleConfig(anchors="rollout", anchors_per_scenario=2, anchor_spacing_s=3.0, keep_bad_driving=True)
CHEAP = ("red_light", "construction", "unprotected_left")
WAYPOINT_M = 0.02


def made(scenario):
    found = list(samples_of(scenario, IdmPlanner(), RIG, SAMPLES, item="it"))
    assert all(isinstance(each, Made) for each in found)
    return [each.sample for each in found]


def through_files(original, folder):
    """The scenario written and read, with the original's names of things, by which they are drawn and spoken of."""
    written = write_scenario(original, folder, IdmPlanner())
    source = NuplanSource(NuplanConfig(path=str(folder), scenario_tokens=(written.token,), wheels="as_driven"))
    read = source.load(source.items()[0])
    ids = dict.fromkeys(track_id for frame in original.frames for track_id in frame.ids)
    names = {row_token(written.log.stem, "track", track_id).hex(): track_id for track_id in ids}
    return replace(read, frames=tuple(replace(f, ids=tuple(names[i] for i in f.ids)) for f in read.frames))


def lines_of(sample):
    """The text's lines without the count of what is in view, and without names of things: of two that are as near, or bind as
    much, the other may be named."""
    text = sample.answer.split("<PLANNING>")[0].split("\n")
    lines = [re.sub(r"Scene: .* in view", "Scene:", text[0]), *text[1:]]
    return [re.sub(r" ?\b(hidden|vehicle|cyclist|pedestrian|cone|barrier|sign|object)-\d+", "", line) for line in lines]


def same_but_for_rounding(one, other):
    number = r"-?\d+(?:\.\d+)?"
    if re.split(number, one) != re.split(number, other):
        return False
    pairs = list(zip(re.findall(number, one), re.findall(number, other), strict=True))
    return all(abs(float(a) - float(b)) <= 1.001 * 10.0 ** -len(a.partition(".")[2]) for a, b in pairs)


def assert_the_same(original, folder):
    before, after = made(original), made(through_files(original, folder))
    assert [s.anchor["tick"] for s in before] == [s.anchor["tick"] for s in after]
    for one, other in zip(before, after, strict=True):
        assert np.abs(one.waypoints_ego_m - other.waypoints_ego_m).max() <= WAYPOINT_M
        assert np.abs(one.future - other.future).max() <= WAYPOINT_M
        for row, again in zip(one.ego_history, other.ego_history, strict=True):
            assert again == pytest.approx(row, abs=0.0101)
        for fact in ("command", "speed_limit_mps", "binding_rule", "scenario_type", "planner"):
            assert getattr(one, fact) == getattr(other, fact)
        for line, again in zip(lines_of(one), lines_of(other), strict=True):
            assert same_but_for_rounding(line, again), f"{line} | {again}"
        assert_the_same_is_seen(one.extra["seen"], other.extra["seen"])


def assert_the_same_is_seen(before, after):
    """What covers ten pixels or more in one covers some in the other; trees in front of it stand elsewhere."""
    for camera, things in before.items():
        again = after[camera]
        tracked = {name for name in {*things, *again} if not name.startswith("signal:")}
        plain = {name for name in tracked if max(things.get(name, 0), again.get(name, 0)) >= 10}
        hidden = {name for name in plain if not (name in things and name in again)}
        assert len(hidden) <= 0.1 * len(plain), hidden
        areas = np.array([[things[name], again[name]] for name in sorted(plain - hidden)]).reshape(-1, 2)
        assert areas[:, 0].sum() == pytest.approx(areas[:, 1].sum(), rel=0.2, abs=20.0)


@pytest.mark.parametrize("family", CHEAP)
def test_samples_survive_nuplans_files(family, tmp_path):
    source = SyntheticSource(SyntheticConfig(families=(family,), n_scenarios=1))
    assert_the_same(source.load(source.items()[0]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in CHEAP])
def test_samples_of_every_family_survive_nuplans_files(family, tmp_path):
    source = SyntheticSource(SyntheticConfig(families=(family,), n_scenarios=1))
    assert_the_same(source.load(source.items()[0]), tmp_path)


def test_the_comparison_finds_what_is_not_rounding():
    assert same_but_for_rounding(
        "lead gap 20.4 speed 8.1 allows 0.31 binds", "lead gap 20.5 speed 8.1 allows 0.30 binds"
    )
    assert not same_but_for_rounding("lead gap 20.4 speed 8.1", "lead gap 20.6 speed 8.1")
    assert not same_but_for_rounding("lead gap 20.4 binds", "lead gap 20.4")
