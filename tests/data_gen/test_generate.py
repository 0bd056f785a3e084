"""The dataset folder: same bytes for any number of workers and any kill, and a check that really recomputes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from data_gen.check import check
from data_gen.export import export
from data_gen.generate import GenerateConfig, generate
from data_gen.sample import SampleConfig
from nsdrive.cli import main
from nsdrive.config import Chosen
from nsdrive.dataset import open_dataset, sha256_of
from nsdrive.scenarios.synthetic import SyntheticConfig
from planners.idm import IdmConfig, IdmPlanner

ROOT = Path(__file__).resolve().parents[2]
MAKE_PLANNER = partial(IdmPlanner, IdmConfig())
OVERRIDES = ("scenarios.n_scenarios=6", "scenarios_per_chunk=2", "image_width_px=160", "image_height_px=90")


def config(**scenarios):
    chosen = Chosen(name="synthetic", config=SyntheticConfig(n_scenarios=6, **scenarios))
    return GenerateConfig(
        scenarios=chosen,
        planner=Chosen(name="idm", config=IdmConfig()),
        image_width_px=160,
        image_height_px=90,
        samples=SampleConfig(anchors_per_scenario=2),
        scenarios_per_chunk=2,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "set"
    made = generate(config(), MAKE_PLANNER, out=out)
    assert made.failures == ()
    assert made.n_samples == 12
    return out


def hashes(folder):
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def checked(folder):
    return check(open_dataset(folder), config(), MAKE_PLANNER)


def test_two_workers_write_the_same_bytes_as_one(folder, tmp_path):
    generate(config(), MAKE_PLANNER, out=tmp_path / "set", workers=2)
    assert hashes(tmp_path / "set") == hashes(folder)


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, capsys):
    command = ["generate", "data/synthetic", *OVERRIDES, "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*command, str(whole)]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "nsdrive.cli", *command, str(killed)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(killed.glob(".chunks/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "manifest.json").exists(), "it was too fast to be killed"
    capsys.readouterr()
    assert main([*command, str(killed)]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*command, str(killed), "--resume"]) == 0
    assert hashes(killed) == hashes(whole)


def test_resuming_with_other_settings_is_refused(folder):
    with pytest.raises(ValueError, match="other settings"):
        generate(config(seed=1), MAKE_PLANNER, out=folder, resume=True)


def test_the_samples_are_what_the_contract_says(folder):
    dataset = open_dataset(folder)
    rows = [row for split in ("train", "val", "test") for _, row in dataset.rows(split)]
    assert len(rows) == dataset.manifest["samples"] == 12
    for row in rows:
        assert row["messages"][0]["content"].count("<image>") == len(row["images"]) == 3
        assert re.fullmatch(
            r"(?s)<REASONING>.+</REASONING>\n<PLANNING>\[.+\]</PLANNING>", row["messages"][1]["content"]
        )
        assert len(row["nsdrive"]["ego_history"]) == 5
        assert all(dataset.image_path(image).is_file() for image in row["images"])
    splits = {split: {row["scenario"] for _, row in dataset.rows(split)} for split in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == len(set().union(*splits.values())) == 6
    assert (folder / "README.md").is_file()


def test_a_true_dataset_passes_the_check(folder):
    found = checked(folder)
    assert found.problems == ()
    assert found.recomputed == found.samples == 12
    assert found.worst_replay_m <= 0.05


def spoiled(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    return copy, sorted(copy.glob("*-0*.jsonl"))[0]


def test_one_wrong_number_in_one_text_is_found(folder, tmp_path):
    copy, shard = spoiled(folder, tmp_path)
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    answer = rows[1]["messages"][1]["content"]
    number = list(re.finditer(r"\d\.\d\d", answer.split("<PLANNING>")[0]))[4]
    changed = str(int(answer[number.start()]) ^ 1)
    rows[1]["messages"][1]["content"] = answer[: number.start()] + changed + answer[number.start() + 1 :]
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = checked(copy).problems
    assert any(rows[1]["id"] in line and "the answer does not say" in line for line in problems)
    assert not any(rows[0]["id"] in line for line in problems)


def test_a_wrong_fact_is_found_even_where_text_and_hash_agree(folder, tmp_path):
    copy, shard = spoiled(folder, tmp_path)
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    rows[0]["nsdrive"]["future"][20][3] += 0.5
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][shard.name] = sha256_of(shard)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    problems = checked(copy).problems
    assert len(problems) == 1
    assert rows[0]["id"] in problems[0]
    assert "future.20.3" in problems[0]


def test_a_spoiled_image_and_a_spoiled_hash_are_found(folder, tmp_path):
    copy, shard = spoiled(folder, tmp_path)
    row = json.loads(shard.read_text().splitlines()[0])
    first, second, third = (copy / name for name in row["images"])
    first.write_bytes(second.read_bytes())
    third.unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][row["images"][1]] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "stray.bin").write_bytes(b"?")
    problems = "\n".join(checked(copy).problems)
    assert f"{row['images'][0]}: its sha256" in problems
    assert f"{row['images'][0]} does not show the scene" in problems
    assert f"{row['images'][1]}: its sha256" in problems
    assert f"{row['images'][2]}: is gone" in problems
    assert "stray.bin: is not in manifest.json" in problems


def test_a_truncated_shard_is_a_problem_not_a_crash(folder, tmp_path):
    copy, shard = spoiled(folder, tmp_path)
    text = shard.read_text()
    shard.write_text(text[: len(text) - 200])
    assert any(shard.name in line and "cut off" in line for line in checked(copy).problems)


def test_exports_are_read_by_other_trainers(folder, tmp_path):
    dataset = open_dataset(folder)
    for kind in ("json-list", "llama-factory"):
        files = export(dataset, kind=kind, out=tmp_path / kind)
        rows = json.loads(files[0].read_text())
        assert rows[0]["messages"][0]["content"].count("<image>") == len(rows[0]["images"])
    info = json.loads((tmp_path / "llama-factory" / "dataset_info.json").read_text())
    assert info["nsdrive_train"]["columns"]["images"] == "images"


def test_an_export_that_is_written_row_by_row_has_the_bytes_of_the_list(folder, tmp_path):
    dataset = open_dataset(folder)
    for path in export(dataset, kind="json-list", out=tmp_path / "lists"):
        rows = [row for _, row in dataset.rows(path.stem)]
        assert path.read_text() == json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    assert not list((tmp_path / "lists").glob(".*"))


@pytest.mark.parametrize("kind", ["json-list", "llama-factory"])
def test_an_export_replaces_nothing_unasked(folder, tmp_path, kind, capsys):
    out = tmp_path / "out"
    line = ["export", str(folder), "--format", kind, "--out", str(out)]
    assert main(line) == 0
    before = hashes(out)
    name = "dataset_info.json" if kind == "llama-factory" else "train.json"
    for path in out.iterdir():
        path.unlink()
    (out / name).write_text("mine")
    capsys.readouterr()
    assert main(line) == 1
    assert f"{out / name} exists: replace it with --overwrite" in capsys.readouterr().err
    assert main([*line, "--resume"]) == 1
    assert (out / name).read_text() == "mine"
    missing = next(split for split in ("val", "test") if not open_dataset(folder).shards(split))
    (out / f"{missing}.json").write_text("of an earlier export")
    assert main([*line, "--overwrite"]) == 0
    assert f"still has {missing}.json, which this dataset has no samples for" in capsys.readouterr().err
    (out / f"{missing}.json").unlink()
    assert hashes(out) == before


def test_an_export_into_a_dataset_is_refused(folder, tmp_path):
    before = hashes(folder)
    for out in (folder, folder / "lists"):
        for kind in ("json-list", "llama-factory"):
            with pytest.raises(ValueError, match="lies in the dataset"):
                export(open_dataset(folder), kind=kind, out=out, overwrite=True)
    assert hashes(folder) == before
