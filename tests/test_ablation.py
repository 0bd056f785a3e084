"""The ablation as command lines, and what runs them: side by side, once, in order, and gone on with after a stop."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import nsdrive.stepwise
from nsdrive.ablation import AblationConfig, Step, Variant, asked, begin, runs_of, steps
from nsdrive.arguments import build_parser
from nsdrive.cli import VERBS
from nsdrive.config import config_folder, load_config
from nsdrive.stepwise import resumed, run_steps, spent_by
from nsdrive.vla.training.config import TrainConfig

CONFIGS = [path.stem for path in sorted((config_folder() / "ablation").glob("*.yaml"))]
SMALL = AblationConfig(seeds=(0, 1), head=True, controls=("black", "oracle_text"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_line_of_a_config_can_be_typed(name):
    config = load_config(AblationConfig, f"ablation/{name}")
    parser = build_parser(VERBS, teachers=["idm"])
    for step in steps(config, Path("out")):
        for line in step.lines:
            typed = parser.parse_args(line)
            if line[0] == "train":
                assert load_config(TrainConfig, typed.config, typed.overrides).seed in config.seeds


def test_every_step_waits_only_for_steps_before_it():
    config = replace(SMALL, start_overrides=("max_steps=1",))
    seen = set()
    for step in steps(config, Path("out")):
        assert set(step.after) <= seen
        seen.add(step.name)


def test_cells_differ_in_their_data_alone():
    lines = {step.name: step.lines[0] for step in steps(SMALL, Path("out")) if step.name.endswith("-s1")}
    assert sorted(lines) == sorted(f"{rig}-{level}-s1" for rig in "38" for level in ("none", "brief", "detailed"))
    settings = {line[: line.index("--data")] for line in lines.values()}
    assert len(settings) == 1
    assert len({line[line.index("--data") + 1] for line in lines.values()}) == 6


def test_a_common_start_is_the_same_for_every_level_and_another_for_every_seed():
    config = replace(SMALL, start_overrides=("max_steps=1",))
    models = {}
    for step in steps(config, Path("out")):
        for word in step.lines[0]:
            if word.startswith("model="):
                rig, _, seed = step.name.split("-")
                models.setdefault((rig, seed), set()).add(word)
                assert f"start-{rig}-{seed}" in step.after
    assert len(models) == 4
    assert all(len(found) == 1 for found in models.values())
    assert len(set.union(*models.values())) == 4


def test_eight_cameras_are_generated_once_and_all_else_is_derived():
    verbs = [line[0] for step in steps(SMALL, Path("out")) for line in step.lines]
    assert verbs.count("generate") == 1
    assert verbs.count("derive") == 5
    assert verbs.count("train") == 12


def test_a_model_without_reasoning_is_not_asked_for_another_reasoning():
    assert "text.oracle_text" not in dict(asked(SMALL, "none"))
    assert {"text", "text.black", "text.oracle_text", "head", "head.black"} == set(dict(asked(SMALL, "brief")))


def test_a_variant_is_its_cell_with_other_settings():
    config = replace(SMALL, variants=(Variant(name="slow", level="brief", rig="3", overrides=("learning_rate=1e-4",)),))
    own, plain = (next(r for r in runs_of(config) if r.name == name) for name in ("slow-s0", "3-brief-s0"))
    assert (own.data, own.overrides) == (plain.data, ("learning_rate=1e-4",))


def test_a_misspelt_override_or_another_config_is_told_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
        begin(replace(SMALL, train_overrides=("learning_rat=1",)), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    begin(SMALL, tmp_path / "a")
    begin(SMALL, tmp_path / "a", resume=True)
    with pytest.raises(ValueError, match="other settings"):
        begin(replace(SMALL, seeds=(0,)), tmp_path / "a", resume=True)
    with pytest.raises(ValueError, match="levels"):
        replace(SMALL, levels=("none", "none"))


PLAIN = """
import json, os, pathlib, subprocess, sys, time
for line in json.loads(sys.argv[1]):
    out = pathlib.Path(line[line.index("--out") + 1])
    if line[0] == "meet":
        out.write_text("")
        until = time.monotonic() + 20
        while not pathlib.Path(line[1]).exists():
            if time.monotonic() > until: sys.exit(3)
            time.sleep(0.01)
    elif line[0] == "fail":
        print("it broke"); sys.exit(7)
    elif line[0] == "hang":
        child = subprocess.Popen(["sleep", "60"])
        out.write_text(f"{os.getpid()} {child.pid}"); time.sleep(60)
    else:
        with out.open("a") as file: file.write(" ".join(line) + "\\n")
"""


@pytest.fixture
def plain_worker(monkeypatch):
    """Steps that need no nsdrive: a line's verb says what to do, --out where."""
    monkeypatch.setattr(nsdrive.stepwise, "WORKER", PLAIN)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_no_step_goes_on_without_who_started_it(tmp_path, number):
    code = """
import pathlib, sys
import nsdrive.stepwise
from nsdrive.ablation import Step
nsdrive.stepwise.WORKER = sys.argv[1]
out = pathlib.Path(sys.argv[2])
nsdrive.stepwise.run_steps([Step(name="hangs", lines=(("hang", "--out", str(out / "pid")),))], out)
"""
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", code, PLAIN, str(tmp_path)]) as running:
        until_s = time.monotonic() + 20.0
        while not (pid.is_file() and pid.read_text()) and time.monotonic() < until_s:
            time.sleep(0.02)
        running.send_signal(number)
    step_and_child = [Path("/proc", one) for one in pid.read_text().split()]
    while any(one.exists() for one in step_and_child) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert time.monotonic() < until_s, "they would hang for a minute"


def test_steps_run_side_by_side_and_only_once(tmp_path, plain_worker):
    a, b, c = (str(tmp_path / name) for name in "abc")
    wanted = [
        Step(name="one", lines=(("meet", b, "--out", a),)),
        Step(name="two", lines=(("meet", a, "--out", b),)),  # each waits until the other runs
        Step(name="three", lines=(("write", "--out", c),), after=("one", "two")),
    ]
    said = []
    assert run_steps(wanted, tmp_path, at_once=2, say=said.append) == 0
    assert said[-1].startswith("[3/3")
    assert run_steps(wanted, tmp_path, at_once=2, say=said.append) == 0
    assert (tmp_path / "c").read_text().count("write") == 1
    spent = spent_by(wanted, tmp_path)
    assert set(spent) == {"one", "two", "three"}
    assert all(0.0 < step["cpu_seconds"] < 20.0 for step in spent.values())


def test_a_step_that_fails_says_why_stops_the_others_and_is_gone_on_with(tmp_path, plain_worker):
    there, file = str(tmp_path / "there"), str(tmp_path / "file")
    (tmp_path / "file").write_text("")
    wanted = [
        Step(name="first", lines=(("write", "--out", there),)),
        Step(name="hangs", lines=(("hang", "--out", str(tmp_path / "hung")),)),
        Step(name="breaks", lines=(("fail", "--out", file),), after=("first",)),
    ]
    said = []
    assert run_steps(wanted, tmp_path, at_once=2, say=said.append) == 7
    assert "it broke" in said[-1]
    mended = [wanted[0], Step(name="breaks", lines=(("train", "--out", file),), after=("first",))]
    assert run_steps(mended, tmp_path, at_once=2, say=said.append) == 0
    assert "train --out" in (tmp_path / "file").read_text()
    assert "--resume" in (tmp_path / "file").read_text()
    assert (tmp_path / "there").read_text().count("write") == 1


def test_a_step_that_is_done_otherwise_is_refused(tmp_path, plain_worker):
    step = Step(name="one", lines=(("write", "--out", str(tmp_path / "a")),))
    assert run_steps([step], tmp_path, say=lambda line: None) == 0
    with pytest.raises(ValueError, match="--overwrite"):
        run_steps([replace(step, lines=(("write", "more", "--out", str(tmp_path / "a")),))], tmp_path)


def test_a_line_that_was_begun_goes_on_and_a_new_one_begins(tmp_path):
    out = tmp_path / "run"
    line = ("train", "config", "--out", str(out))
    assert resumed(line) == line
    out.mkdir()
    assert resumed(line) == line
    (out / "config.json").write_text("{}")
    assert resumed(line) == (*line, "--resume")
    assert resumed(("evaluate", "--out", str(out)))[-1] == "--overwrite"
    part = ("predict", "--out", str(tmp_path / "answers.jsonl"))
    (tmp_path / "answers.jsonl.part").write_text("")
    assert resumed(part) == (*part, "--resume")


def test_a_stopped_ablation_goes_on_with_other_workers_and_fewer_steps_at_once(tmp_path):
    begin(SMALL, tmp_path)
    other = replace(SMALL, at_once=SMALL.at_once + 1, workers=SMALL.workers + 1, about="the same, told otherwise")
    begin(other, tmp_path, resume=True)
    line = ("generate", "data/synthetic", "--out", str(tmp_path / "data"), "--workers")
    note = {"lines": [[*line, "2"]], "seconds": 1.0, "cpu_seconds": 1.0}
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "data.json").write_text(json.dumps(note))
    assert run_steps([Step(name="data", lines=((*line, "3"),))], tmp_path) == 0  # it is done: nothing is run
    with pytest.raises(ValueError, match="done otherwise"):
        run_steps([Step(name="data", lines=(("derive", *line[1:], "3"),))], tmp_path)


def test_a_seed_that_no_training_takes_is_refused_before_anything_is_begun(tmp_path):
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        begin(replace(SMALL, seeds=(0, -1)), tmp_path / "a")
    assert not (tmp_path / "a").exists()
