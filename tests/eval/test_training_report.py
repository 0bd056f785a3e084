"""Folders of trainings in the report: alone, beside evaluations, unfinished, and from strangers."""

import json
import re

import pytest

from eval.report.compose import report
from eval.report.training import load_training


def write_run(folder, *, steps=40, loss=2.0, level="detailed", head=False, summary=True):
    """A run as `nsdrive train` leaves it, its loss halving every ten steps."""
    folder.mkdir()
    settings = {"model": "tiny", "train_level": level, "learning_rate": 2e-5, "track": ["tensorboard", "wandb"]}
    (folder / "config.json").write_text(json.dumps({"dataset": "out/data", "train": settings}))
    losses, measured = [], []
    for step in range(1, steps + 1):
        now = loss * 0.5 ** (step / 10)
        row = {"step": step, "samples_seen": 8 * step, "loss": now, "reasoning_loss": None, "planning_loss": now}
        row |= {"head_loss": now / 2 if head else None, "learning_rate": 2e-5, "grad_norm": 1.0, "tokens": 100}
        row |= {"seconds": 2.0, "tokens_per_s": 5000.0, "data_wait_s": 0.1, "gpu_memory_gb": 61.25, "mfu": 0.42}
        losses.append(row)
        if step % 10 == 0:
            for what in ("head", "text") if head else ("text",):
                ade = now * (0.5 if what == "head" else 1.0)
                measured.append(
                    {"step": step, "samples_seen": 8 * step, "what": what, "ADE@3s": ade, "miss_rate@3s": ade / 4}
                    | {"n": 64, "failed": 0, "seconds": 9.0}
                )
    for name, rows in (("loss.jsonl", losses), ("validation.jsonl", measured)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary:
        (folder / "train.json").write_text(json.dumps({"processes": 8, "device": "cuda"}))
    return folder


def figures(page):
    """Caption -> names in its legend, of the figures of the training chapter."""
    chapter = page.split('<section id="training">')[1].split("</section>")[0]
    found = re.findall(r"<figcaption>(.*?)</figcaption>.*?<ul class=\"legend\">(.*?)</ul>", chapter, re.S)
    return {caption: re.findall(r"</i>(.*?) <b>", items) for caption, items in found}


def test_one_run_shows_its_losses_together_and_says_how_fast_it_was(tmp_path):
    page = report([write_run(tmp_path / "run", head=True)], tmp_path / "report").read_text(encoding="utf-8")
    shown = figures(page)
    assert shown["Loss"] == ["total", "planning", "trajectory head"], "there is no reasoning in it"
    assert shown["ADE@3s on validation samples"] == ["text", "trajectory head"]
    assert "<h1>Training</h1>" in page
    cells = re.findall(r"<td>([^<]*)", page)
    for expected in ("320", "5000", "5.0", "61.2", "42.0", "0.02"):  # samples, tokens/s, wait %, GB, MFU %, hours
        assert expected in cells
    assert "8 x cuda, finished" in page


def test_several_runs_lie_over_each_other_and_only_what_differs_is_in_sight(tmp_path):
    runs = [write_run(tmp_path / "a", head=True), write_run(tmp_path / "b", level="none", loss=3.0, summary=False)]
    page = report(runs, tmp_path / "report").read_text(encoding="utf-8")
    shown = figures(page)
    assert shown["Loss, total"] == ["a", "b"]
    assert shown["Loss, trajectory head"] == ["a"]
    assert shown["Miss rate at 3 s on validation samples"] == ["a", "a, head", "b"]
    differ = page.split("Settings that differ")[1].split("</table>")[0]
    assert "train_" in differ
    assert "learning_" not in differ
    assert "not finished" in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| a 8 x cuda, finished |" in text or "| a |" in text
    assert "wandb" in text


def test_a_training_stands_beside_an_evaluation(dataset, samples, write_predictions, tmp_path):
    from eval_fixtures import answer

    from eval.evaluate import evaluate

    rows = [answer(sample, sample.waypoints_ego_m) for sample in samples]
    evaluate({"vla": write_predictions("vla", rows)}, dataset, tmp_path / "eval")
    path = report([write_run(tmp_path / "run"), tmp_path / "eval"], tmp_path / "report")
    page = path.read_text(encoding="utf-8")
    assert "<h1>Driving evaluation</h1>" in page
    assert page.index('id="verdict-0"') < page.index('id="training"') < page.index('id="published"')
    assert '<a href="#training">Training</a>' in page
    again = report([tmp_path / "run", tmp_path / "eval"], tmp_path / "report", overwrite=True)
    assert again.read_text(encoding="utf-8") == page, "same input, same bytes"


def test_two_runs_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    runs = [write_run(tmp_path / "x" / "run"), write_run(tmp_path / "y" / "run")]
    page = report(runs, tmp_path / "report").read_text(encoding="utf-8")
    assert figures(page)["Loss, total"] == [str(run) for run in runs]


def test_a_run_that_still_runs_or_is_a_strangers_is_shown_or_refused_in_one_line(tmp_path):
    run = write_run(tmp_path / "run", summary=False)
    with (run / "loss.jsonl").open("a") as file:
        file.write('{"step": 41, "loss": "<script>", "samples_seen": 328}\n{"step": 4')
    page = report([run], tmp_path / "report").read_text(encoding="utf-8")
    assert "<script>" not in page.split("<main>")[1]
    (run / "loss.jsonl").write_text('{"step": 1}\n[]\n')
    with pytest.raises(ValueError, match=r"loss\.jsonl, line 2 is no row"):
        load_training(run)
    (run / "loss.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no row yet"):
        load_training(run)
    (run / "config.json").write_text('{"planner": {}}')
    with pytest.raises(ValueError, match="has no settings of a training"):
        load_training(run)
