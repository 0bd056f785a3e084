"""What a person sees who types a command: one clear line for what went wrong, and the exit status."""

import json

import pytest

from nsdrive import arguments
from nsdrive.cli import VERBS, build_parser, main
from nsdrive.questions import CONTROLS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args([verb, "--help"])
    assert stopped.value.code == 0
    assert f"nsdrive {verb}" in capsys.readouterr().out.split("example:")[1]


def test_the_controls_that_can_be_typed_are_those_that_there_are():
    assert ("none", *arguments.CONTROLS) == CONTROLS


def test_the_deepspeed_launcher_may_put_its_flag_before_the_verb():
    typed = arguments.parse(build_parser(), ["--local_rank=1", "train", "train/box", "a=1"])
    assert (typed.verb, typed.overrides) == ("train", ["a=1"])


def test_settings_may_stand_behind_the_options_and_nothing_else_may(capsys):
    typed = arguments.parse(build_parser(), ["train", "train/box", "a=1", "--data", "d", "b=2", "--dry-run", "c=3"])
    assert typed.overrides == ["a=1", "b=2", "c=3"]
    for command in ("train train/box --out o word", "train train/box --outt=o", "check d --workers 2 a=1"):
        with pytest.raises(SystemExit):
            arguments.parse(build_parser(), command.split())
        assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("generate data/sinthetic --out {out}/x", "Did you mean 'data/synthetic'"),
        ("generate data/synthetic scenarios.n_scenario=3 --out {out}/x", "Did you mean 'n_scenarios'"),
        ("generate data/synthetic scenarios.families=red_lihgt --out {out}/x", "red_light"),
        ("generate data/synthetic planner=idn --out {out}/x", "Did you mean 'idm'"),
        ("generate data/synthetic samples.trace_level=breif --out {out}/x", "none, brief, detailed"),
        ("generate data/synthetic scenarios.n_scenarios=0 --out {out}/x", "no scenarios"),
        ("generate data/synthetic --workers 0 --out {out}/x", "--workers must be at least 1"),
        ("generate data/synthetic --out {out}", "--resume"),
        ("generate data/argoverse2 scenarios.path={out}/nowhere --out {out}/x", "nowhere"),
        ("check {out}/nowhere", "No dataset folder"),
        ("check {out}", "manifest.json"),
        ("train train/tiny_demo --data {out}/nowhere --out {out}/x", "No dataset folder"),
        ("train train/tiny_demo --data {out}/set --out {out}/x max_step=2", "Did you mean 'max_steps'"),
        ("train train/tiny_demo --gpus 8 --data {out}/set --out {out}/x", "torchrun --nproc_per_node N"),
        ("train train/tiny_dmo --data {out} --out {out}/x", "Did you mean 'train/tiny_demo'"),
        ("baseline blind_idn --data {out}/set --out {out}/p.jsonl", "blind_idm"),
        ("evaluate --predictions {out}/none.jsonl --data {out}/set --out {out}/e", "No predictions file"),
        ("report {out}/nowhere --out {out}/r", "nowhere"),
        ("report {out}/set --out {out}/r", "is a dataset. A report is drawn of an evaluation"),
        ("show red_ligth --out {out}/s", "Did you mean 'red_light'"),
        ("show red_light --at 14 --out {out}/s", "give 2.0 to"),
        ("show red_light --at inf --out {out}/s", "give 2.0 to"),
        ("edit red_light --remove lead --at nan --out {out}/s", "give 2.0 to"),
        ("edit red_light --out {out}/s", "nothing to change"),
        ("edit free_road --remove laed --out {out}/s", "laed"),
        ("probe --data {out}/set --out {out}/q.jsonl", "who answers?"),
        ("probe --planted honest --data {out}/set --out {out}/q.jsonl", "honest"),
        ("evaluate --data {out}/set --out {out}/e", "nothing to evaluate"),
        ("evaluate --predictions {out}/x.jsonl --data {out}/set --out {out}/set", "choose another --out"),
        ("report {out}/nowhere --out {out}/set", "choose another --out"),
        ("probe --write-questions --planted blind --data {out}/set --out {out}/q.jsonl", "leave --planted out"),
        ("probe --planted blind --questions a.jsonl --data {out}/set --out {out}/q.jsonl", "goes with --answers"),
        ("probe --write-questions --resume --data {out}/set --out {out}/q.jsonl", "--overwrite"),
        ("evaluate --probes a/x.jsonl b/x.jsonl --data {out}/set --out {out}/e", "are called 'x'"),
        ("evaluate --predictions x.jsonl --about words --data {out}/set --out {out}/e", "NAME=TEXT"),
        ("edit free_road --remove lead --out {out}", "--overwrite"),
        ("simulate simulate/synthetic agents=angry --out {out}/x", "replay, reactive"),
    ],
)
def test_a_mistake_is_one_line_and_status_one(command, message, tmp_path, capsys):
    (tmp_path / "something.txt").write_text("here first")
    (tmp_path / "set").mkdir()
    manifest = {"format_version": 1, "files": {}, "config": {}, "samples": 0, "counts": {}, "failures": []}
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
    assert main(command.format(out=tmp_path).split()) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
    assert (tmp_path / "something.txt").read_text() == "here first"


def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "manifest.json").write_text('{"format_version": 1, "files": {}}')
    for command, message in (
        (f"pack {data} --seed -1 --out {out}", "--seed must be 0 or more"),
        (f"pack {data} --workers 0 --out {out}", "--workers must be at least 1"),
        (f"pack {data} --out {data}/packed", "lies in the dataset"),
        (f"train tiny_demo seed=-1 --data {data} --out {out}", "seed must be 0 or more"),
        (f"train data/synthetic --data {data} --out {out}", "is a config for `nsdrive generate`"),
        (f"train tiny_demo --dry-run --data {data} --cameras 8", "--cameras is for a forecast without --data"),
        (f"train tiny_demo --data {data} --cameras 8 --out {out}", "are for --dry-run"),
        (f"train tiny_demo --data {data} --out {out} --resume --overwrite", "exclude each other"),
        (f"predict --model box --data {data} --out {data}/p.jsonl", "lies in the dataset"),
        (f"predict --model box --data {data}/manifest.json --out {out}", "is a file: give the dataset's folder"),
        (f"baseline oracle --data {data} --out {data}/p.jsonl", "lies in the dataset"),
        (f"ablation ablation/cpu data=train/box --out {out}", "is a config for `nsdrive train`"),
        (f"ablation ablation/cpu data_overrides=foo=1 --out {out}", "No setting 'foo'"),
    ):
        assert main(command.split()) == 1, command
        said = capsys.readouterr().err
        assert message in said, command
        assert said.count("\n") == 1, said
        assert not out.exists(), command
    assert [path.name for path in data.iterdir()] == ["manifest.json"]
