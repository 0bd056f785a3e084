import json

import numpy as np
import pytest

from nsdrive.dataset import (
    FORMAT_VERSION,
    Sample,
    claim_folder,
    inside,
    json_line,
    open_dataset,
    write_atomically,
)

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
