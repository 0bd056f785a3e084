"""Planners by import path: the README's example through every verb, and one line for whatever is not a planner."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from nsdrive.cli import TEACHERS, main, planner_table
from nsdrive.planner_table import NoSettings

EXAMPLE = Path(__file__).with_name("example_planner.py")
SILENT = """
from example_planner import CautiousConfig, CautiousPlanner
from dataclasses import replace

class Silent(CautiousPlanner):
    name = "silent"
    def __init__(self):
        super().__init__(CautiousConfig())
    def plan(self, observation):
        return replace(super().plan(observation), decision=None)

class Nameless(Silent):
    name = None

class Needy(Silent):
    def __init__(self, model):
        pass

class Lame:
    def initialize(self, mission, ego): ...
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder outside the repository with planners in it, the current one."""
    shutil.copy(EXAMPLE, tmp_path / "example_planner.py")
    (tmp_path / "own_planners.py").write_text(SILENT)
    (tmp_path / "broken_planner.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "wrong_planner.py").write_text("def plan(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("example_planner", "own_planners", "broken_planner", "wrong_planner"):
        sys.modules.pop(name, None)


def test_the_example_shows_simulates_generates_and_checks(folder, capsys):
    own = "example_planner:CautiousPlanner"
    assert main(["show", "red_light", "--planner", own, "--out", "shown"]) == 0
    scenes = ["scenarios.n_scenarios=2", "scenarios.families=free_road,stopped_lead", f"planner={own}"]
    assert main(["simulate", "simulate/synthetic", *scenes, "planner.speed_share=0.8", "--out", "driven"]) == 0
    results = json.loads((folder / "driven/results.json").read_text())
    assert [row["planner"] for row in results["scenarios"]] == ["cautious"] * 2
    assert results["config"]["planner"]["name"] == own
    assert results["config"]["planner"]["speed_share"] == 0.8
    small = ["image_width_px=64", "image_height_px=36", "samples.anchors_per_scenario=1"]
    assert main(["generate", "data/synthetic", *scenes, *small, "--out", "data"]) == 0
    assert json.loads((folder / "data/manifest.json").read_text())["config"]["planner"]["name"] == own
    capsys.readouterr()
    assert main(["check", "data"]) == 1
    assert f"imported only if you name it: --planner {own}" in capsys.readouterr().err
    assert main(["check", "data", "--planner", own]) == 0


def test_a_planner_without_decisions_drives_but_does_not_teach(folder, capsys):
    scenes = ["scenarios.n_scenarios=2", "scenarios.families=free_road", "planner=own_planners:Silent"]
    assert main(["simulate", "simulate/synthetic", *scenes, "--out", "driven"]) == 0
    assert "silent" in (folder / "driven/results.json").read_text()
    capsys.readouterr()
    assert main(["generate", "data/synthetic", *scenes, "--out", "data"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if "nsdrive generate:" in line]) == 1
    assert "makes no decisions" in said[-1]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("idn", "Did you mean 'idm'? Known: "),
        ("idn", "or module:Class for one of your own"),
        ("nowhere_to_be_found:Planner", "there is no module 'nowhere_to_be_found' in "),
        ("example_planner.inner:Planner", "example_planner"),
        ("example_planner:CautiousPlaner", "has no class 'CautiousPlaner'. Did you mean 'CautiousPlanner'?"),
        ("example_planner:CautiousConfig", "is not a planner: it lacks initialize(mission, ego) and plan(observation)"),
        ("own_planners:Lame", "is not a planner: it lacks plan(observation)"),
        ("own_planners:Nameless", "has no name"),
        ("own_planners:Needy", "wants 'model', which nsdrive cannot give"),
        ("broken_planner:Planner", "cannot be imported: No module named 'nothing_of_this_name'"),
        ("wrong_planner:Planner", "cannot be imported: SyntaxError"),
        ("example_planner.py:CautiousPlanner", "give module:Class"),
        (":CautiousPlanner", "give module:Class"),
    ],
)
def test_what_is_not_a_planner_is_one_line_in_every_verb(folder, capsys, path, message):
    simulate = ["simulate", "simulate/synthetic", "scenarios.n_scenarios=1", f"planner={path}", "--out", "x"]
    for command in (["show", "red_light", "--planner", path, "--out", "s"], simulate):
        assert main(command) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in line
        if path != "own_planners:Nameless":  # known only once one is made
            assert line.startswith(f"nsdrive {command[0]}: ")


def test_a_misspelt_setting_of_an_own_planner_is_found(folder, capsys):
    planner = ["planner=example_planner:CautiousPlanner", "planner.speed_shar=0.4"]
    assert main(["simulate", "simulate/synthetic", *planner, "--out", "x"]) == 1
    assert "Did you mean 'speed_share'" in capsys.readouterr().err


@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_has_a_config_of_its_own_and_its_name(name):
    table = planner_table()
    assert table[name] is not NoSettings
    from nsdrive.cli import choose_planner, planner_factory

    assert planner_factory(choose_planner(name))().name == name


def test_a_scenario_in_which_the_planner_found_no_way_is_not_taught(folder, capsys):
    (folder / "own_planners.py").write_text(
        "from dataclasses import replace\n"
        "from example_planner import CautiousConfig, CautiousPlanner\n"
        "class Lost(CautiousPlanner):\n"
        "    def plan(self, observation):\n"
        "        plan = super().plan(observation)\n"
        "        return replace(plan, decision=replace(plan.decision, notes=('braking to a stop: lost',)))\n"
    )
    scenes = ["scenarios.n_scenarios=1", "scenarios.families=free_road", "planner=own_planners:Lost"]
    assert main(["generate", "data/synthetic", *scenes, "--out", "data"]) == 1
    assert "planner 'cautious': braking to a stop: lost" in capsys.readouterr().err
