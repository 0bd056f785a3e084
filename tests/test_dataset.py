import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nsdrive.dataset import (
    FORMAT_VERSION,
    Sample,
    inside,
    json_line,
    open_dataset,
    write_atomically,
)
from nsdrive.output_folder import changes, claim_file, claim_folder, settle
from nsdrive.parallel import in_order
from nsdrive.part_file import PartFile

SAMPLE = Sample(
    sample_id="s-0020",
    scenario_id="s",
    scenario_type="stopping_with_lead",
    planner="idm",
    trace_level="none",
    images=("images/s/CAM_F0.jpg",),
    prompt="front camera: <image>",
    answer="<PLANNING></PLANNING>",
    ego_history=({"t_s": 0.0, "x_m": 0.0},),
    waypoints_ego_m=np.arange(20.0).reshape(10, 2),
    future=np.zeros((51, 5)),
    command="follow the road",
    speed_limit_mps=None,
    binding_rule="lead",
    trace={},
    trace_names={},
    rig={},
    anchor={"tick": 20},
    extra={"item": "s"},
)


def dataset(tmp_path, lines):
    write_atomically(tmp_path / "test-00000.jsonl", "".join(lines))
    manifest = {"format_version": FORMAT_VERSION, "files": {"test-00000.jsonl": ""}}
    write_atomically(tmp_path / "manifest.json", json.dumps(manifest))
    return open_dataset(tmp_path)


def test_a_sample_survives_its_line(tmp_path):
    data = dataset(tmp_path, [json_line(SAMPLE.to_row())])
    (back,) = data.samples("test")
    assert back.to_row() == SAMPLE.to_row()
    assert list(data.samples("train")) == []


def test_a_cut_off_shard_is_named_with_its_line(tmp_path):
    line = json_line(SAMPLE.to_row())
    data = dataset(tmp_path, [line, line[:100]])
    with pytest.raises(ValueError, match=r"test-00000\.jsonl:2 is not JSON"):
        list(data.samples("test"))


@pytest.mark.parametrize("spoil", ["nan", "short", "gone"])
def test_a_misshapen_sample_is_named(tmp_path, spoil):
    row = SAMPLE.to_row()
    if spoil == "nan":
        row["nsdrive"]["waypoints_ego_m"][3][0] = None
    elif spoil == "short":
        row["nsdrive"]["waypoints_ego_m"].pop()
    else:
        del row["nsdrive"]["command"]
    data = dataset(tmp_path, [json.dumps(row) + "\n"])
    with pytest.raises(ValueError, match=r"test-00000\.jsonl:1"):
        list(data.samples("test"))


def test_an_unfinished_folder_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="--resume"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="nsdrive generate"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "images/../../x", "a\\..\\b", ""])
def test_no_path_leaves_the_folder(tmp_path, path):
    with pytest.raises(ValueError, match="dataset folder"):
        inside(tmp_path, path)


def test_no_link_leads_out_of_the_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to("/etc")
    with pytest.raises(ValueError, match="leads out"):
        inside(tmp_path / "data", "images/passwd")


def test_an_existing_output_is_refused_and_a_stranger_is_never_deleted(tmp_path):
    out = tmp_path / "out"
    claim_folder(out, resume=False, overwrite=False, marker="config.json")
    (out / "thesis.txt").write_text("precious")
    for flags in ({"resume": False, "overwrite": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(ValueError, match=r"[Cc]hoose another --out"):
            claim_folder(out, **flags, marker="config.json")
    assert (out / "thesis.txt").read_text() == "precious"
    (out / "config.json").write_text("{}")
    claim_folder(out, resume=True, overwrite=False, marker="config.json")
    claim_folder(out, resume=False, overwrite=True, marker="config.json")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("killed_in", ["rename", "rmtree"])
def test_what_is_half_overwritten_is_not_gone_on_with_but_overwritten_again(tmp_path, monkeypatch, killed_in):
    out = tmp_path / "out"
    claim_folder(out, resume=False, overwrite=False, marker="config.json")
    for name in ("a.json", "config.json", "z.json"):
        (out / name).write_text("{}")

    def killed(*_):
        raise KeyboardInterrupt

    rename = Path.rename
    with monkeypatch.context() as patched:
        if killed_in == "rmtree":
            patched.setattr(shutil, "rmtree", killed)
        else:
            patched.setattr(
                Path, "rename", lambda path, to: (rename if path.name == "config.json" else killed)(path, to)
            )
        with pytest.raises(KeyboardInterrupt):
            claim_folder(out, resume=False, overwrite=True, marker="config.json")
    assert not (out / "config.json").exists()
    with pytest.raises(ValueError, match="was being replaced when that was stopped: give --overwrite again"):
        claim_folder(out, resume=True, overwrite=False, marker="config.json")
    claim_folder(out, resume=False, overwrite=True, marker="config.json")
    assert list(out.iterdir()) == []


def test_a_link_to_a_folder_and_the_folder_that_one_stands_in_are_emptied_not_moved(tmp_path, monkeypatch):
    real, out = tmp_path / "scratch" / "out", tmp_path / "out"
    real.mkdir(parents=True)
    out.symlink_to(real)
    monkeypatch.chdir(real)
    for folder in (out, Path(".")):
        (real / "config.json").write_text("{}")
        claim_folder(folder, resume=False, overwrite=True, marker="config.json")
        assert (out.is_symlink(), list(real.iterdir())) == (True, [])


def a_dataset(folder):
    write_atomically(folder / "manifest.json", json.dumps({"format_version": FORMAT_VERSION, "files": {}}))
    return folder


def test_nothing_is_written_into_a_dataset(tmp_path):
    data = a_dataset(tmp_path / "data")
    for inner in (data / "run", data / "a" / "b"):
        with pytest.raises(ValueError, match=r"lies in the dataset .*data, which holds nothing but its own files"):
            claim_folder(inner, resume=False, overwrite=False, marker="config.json")
        with pytest.raises(ValueError, match="lies in the dataset"):
            claim_file(inner / "predictions.jsonl")
    assert [path.name for path in data.iterdir()] == ["manifest.json"]
    write_atomically(tmp_path / "site" / "manifest.json", '{"name": "an app"}')  # a stranger's is no dataset's
    claim_folder(tmp_path / "site" / "run", resume=False, overwrite=False, marker="config.json")


def test_a_folder_of_something_else_is_not_gone_on_with(tmp_path):
    data = a_dataset(tmp_path / "data")
    with pytest.raises(ValueError, match=r"no packing\.json in it\): not gone on with"):
        claim_folder(data, resume=True, overwrite=False, marker="packing.json")
    with pytest.raises(ValueError, match=r"no packing\.json in it\): not overwritten"):
        claim_folder(data, resume=False, overwrite=True, marker="packing.json")


def test_a_file_that_exists_is_refused_with_the_ways_out_that_its_verb_has(tmp_path):
    out = tmp_path / "p.jsonl"
    claim_file(out, resume=False)
    out.write_text("")
    with pytest.raises(ValueError, match="exists: go on with --resume, delete it, or choose another --out"):
        claim_file(out, resume=False)
    with pytest.raises(ValueError, match="exists: replace it with --overwrite, or choose another --out"):
        claim_file(out, overwrite=False)
    claim_file(out, resume=True)
    with pytest.raises(ValueError, match="exclude each other"):
        claim_file(out, resume=True, overwrite=True)
    with pytest.raises(ValueError, match="is a folder; give a file"):
        claim_file(tmp_path)
    with pytest.raises(ValueError, match=r"p\.jsonl is a file"):
        claim_file(out / "q.jsonl")


def test_settings_are_settled_once_and_those_that_change_no_result_may_change(tmp_path):
    settle(tmp_path, "s.json", {"seed": 0, "workers": 2, "more": {"a": 1}}, free=("workers",))
    settle(tmp_path, "s.json", {"seed": 0, "workers": 8, "more": {"a": 1}}, free=("workers",))
    assert json.loads((tmp_path / "s.json").read_text())["workers"] == 8
    with pytest.raises(ValueError, match=r"begun with other settings or data \(more\.a: 1 -> 2; seed: 0 -> 1\)"):
        settle(tmp_path, "s.json", {"seed": 1, "workers": 8, "more": {"a": 2}}, free=("workers",))
    (tmp_path / "s.json").write_text("[")
    with pytest.raises(ValueError, match="cannot be read"):
        settle(tmp_path, "s.json", {})
    assert changes({"a": 1, "b": None}, {"a": 1}) == ""
    assert changes({}, dict.fromkeys("abcde", 1)) == "a: None -> 1; b: None -> 1; c: None -> 1; and 2 more"


def test_a_file_is_no_dataset_folder(tmp_path):
    data = a_dataset(tmp_path / "data")
    with pytest.raises(ValueError, match="is a file: give the dataset's folder"):
        open_dataset(data / "manifest.json")


def test_an_unfinished_file_is_gone_on_with_also_where_it_ends_within_a_letter(tmp_path):
    out = tmp_path / "p.jsonl"
    part = PartFile(out, {"seed": 0}, resume=False)
    part.keep(0)
    part.append([{"id": "a"}, {"id": "車\u2028"}])
    with part.path.open("ab") as file:
        file.write('{"id": "車'.encode()[:-1])
    assert PartFile(out, {"seed": 0}, resume=True).rows == [{"id": "a"}, {"id": "車\u2028"}]


def test_a_worker_that_is_killed_is_one_line():
    with pytest.raises(ChildProcessError, match="a worker process was killed"):
        list(in_order(os._exit, [1, 1], workers=2))


def test_no_worker_goes_on_without_who_started_it(tmp_path):
    code = """
import sys, time
from nsdrive.parallel import in_order
print(*in_order(time.sleep, [0.1, 0.1, 600.0, 600.0], workers=2))
"""
    with subprocess.Popen([sys.executable, "-c", code]) as running:
        until_s = time.monotonic() + 20.0
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while len(children.read_text().split()) < 3 and time.monotonic() < until_s:  # two, and what tracks resources
            time.sleep(0.02)
        workers = [Path("/proc", one) for one in children.read_text().split()]
        time.sleep(1.0)  # until they have begun to watch
        running.kill()
    while any(one.exists() for one in workers) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert len(workers) == 3
    assert not [one for one in workers if one.exists()]
