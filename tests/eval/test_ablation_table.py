"""The ablation's table from constructed runs: its arithmetic, its verdict, its page."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from eval.ablation.collect import collect
from eval.ablation.estimates import cell_of, ratio_of, seeds_of
from eval.ablation.page import write_results
from eval.ablation.words import best_cells, direction, ratio, table, verdict
from nsdrive.ablation import AblationConfig, Variant, asked, runs_of

CONFIG = AblationConfig(
    about="constructed <runs>",
    seeds=(0, 1, 2),
    head=True,
    controls=("black", "oracle_text"),
    variants=(
        Variant(name="light", level="detailed", rig="3", overrides=("reasoning_weight=0.1",), why="words weigh less"),
    ),
)
SCENARIOS = 40
ERROR_M = {"none": 2.0, "brief": 2.0, "detailed": 1.0}  # what each level's text is off on average
BLIND_M = 3.0


def write_ablation(out, error_m=ERROR_M, seed_sd_m=0.05):
    """A finished ablation's folder: every run is off by its level's error, times the scenario's own difficulty."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.5, 1.5, SCENARIOS)
    lines, entries = [], {}

    def add(name, mean_m):
        for scenario in range(SCENARIOS):
            for sample in range(2):
                ade = float(mean_m * hard[scenario] + rng.normal(0.0, 0.02))
                row = {"predictions": name, "id": f"{scenario}-{sample}", "scenario": f"scene-{scenario}"}
                lines.append(json.dumps(row | {"3s/ADE": ade, "3s/MR": float(ade > 2.0)}))
        entries[name] = {"parse_failures": 1 if name.endswith("text") else 0}

    for run in runs_of(CONFIG):
        shift = rng.normal(0.0, seed_sd_m)
        for answer, _ in asked(CONFIG, run.level):
            own = error_m[run.level] * (0.5 if answer.startswith("head") else 1.0)
            add(f"{run.name}.{answer}", own + shift + (1.0 if answer.endswith("black") else 0.0))
        folder = out / "runs" / run.name
        folder.mkdir(parents=True)
        summary = {"parameters": 1_500_000, "steps": 80, "samples_seen": 320, "answer_tokens": 9000, "seconds": 60.5}
        (folder / "train.json").write_text(
            json.dumps(summary | {"first_loss": 6.0, "final_loss": 1.0, "device": "cpu"})
        )
        points = [
            {
                "step": k,
                "samples_seen": 4 * k,
                "what": what,
                "ADE@3s": error_m[run.level] * (1.0 + 20.0 / k) + 0.2 * run.seed,
                "miss_rate@3s": 0.3 * error_m[run.level],
                "n": 8,
            }
            for k in (20, 40, 80)
            for what in ("text", "head")
        ]
        (folder / "validation.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    add("blind_idm", BLIND_M)
    blind = {"ADE": {"value": BLIND_M, "low": 2.7, "high": 3.3}, "MR": {"value": 0.8, "low": 0.7, "high": 0.9}}
    (out / "evaluation").mkdir()
    (out / "evaluation" / "samples.jsonl").write_text("\n".join(lines) + "\n")
    dataset = {"samples": 2 * SCENARIOS, "scenarios": SCENARIOS, "split": "test", "all_splits": {"train": 400}}
    results = {"predictions": entries, "baselines": {"blind_idm": {"strict": {"3s": blind}}}, "dataset": dataset}
    (out / "evaluation" / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    write_ablation(folder)
    return folder


@pytest.fixture(scope="module")
def results(out):
    return collect(CONFIG, out, spent={"data-8-detailed": {"seconds": 30.0, "cpu_seconds": 60.0}})


def test_a_ratio_that_was_built_in_is_found_with_its_interval(results):
    found = ratio(results, "8-detailed/text", "8-none/text")
    assert found["low"] < 0.5 < found["high"]
    assert found["value"] == pytest.approx(0.5, abs=0.05)
    assert direction(found) == -1


def test_an_interval_over_seeds_too_is_wider_than_one_over_scenarios(results):
    found = results["cells"]["3-none"]["text"]["3s/ADE"]
    assert found["low_with_seeds"] < found["low"] < found["value"] < found["high"] < found["high_with_seeds"]
    assert found["value"] == pytest.approx(np.mean(found["seeds"]))
    assert found["seeds_sd"] == pytest.approx(np.std(found["seeds"], ddof=1), abs=1e-6)


def test_the_spread_of_seeds_is_stretched_to_what_a_mean_of_them_varies():
    """With the scenarios all alike only seeds vary: the interval must be that of a mean of S seeds."""
    clusters = np.arange(30)
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    one = seeds_of([np.full(30, value) for value in values], clusters, seed=0, side=0)
    assert one.over_scenarios.std() == 0.0
    assert one.over_both.std() == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)), rel=0.05)


def test_the_same_seeds_are_drawn_for_what_one_run_is_asked_and_others_for_another():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(30), 2)
    columns = [shift + rng.uniform(1.0, 2.0, 60) for shift in (0.0, 5.0, 10.0)]
    own, twice, other = (
        seeds_of([factor * column for column in columns], clusters, seed=0, side=side)
        for factor, side in ((1.0, 0), (2.0, 0), (2.0, 1))
    )
    same, apart = ratio_of(twice, own), ratio_of(other, own)
    assert (same["low"], same["value"], same["high"]) == pytest.approx((2.0, 2.0, 2.0))
    assert apart["low"] < 1.5 < 2.5 < apart["high"]


def test_one_seed_and_an_error_of_zero_claim_nothing():
    one = seeds_of([np.zeros(10)], np.arange(10), seed=0, side=0)
    found = cell_of(one)
    assert (found["value"], found["seeds_sd"]) == (0.0, None)
    assert found["low"] == 0.0
    assert found["low_with_seeds"] is None, "what another seed gives is not known"
    assert ratio_of(one, one)["value"] is None
    ones = seeds_of([np.ones(10)], np.arange(10), seed=0, side=0)
    assert (ratio_of(ones, ones)["value"], ratio_of(ones, ones)["low"]) == (1.0, None)


def test_an_ablation_of_one_seed_says_that_it_does_not_tell(tmp_path):
    write_ablation(tmp_path)
    alone = collect(replace(CONFIG, seeds=(0,)), tmp_path)
    said = "\n".join(verdict(alone))
    assert "detailed reasoning is not told apart from none: 3-detailed / 3-none = 0.5" in said
    assert "of one seed, which does not tell what another gives" in said
    assert "lowers" not in said
    assert "m): one seed does not tell" in said
    assert "in ADE@3s: not told by one seed" in said
    assert table(alone)


def test_no_interval_of_a_miss_rate_passes_all_samples():
    columns = [np.ones(40), np.repeat([0.0, 1.0], 20)]
    found = cell_of(seeds_of(columns, np.arange(40), seed=0, side=0, most=1.0))
    assert found["high_with_seeds"] == 1.0
    assert cell_of(seeds_of(columns, np.arange(40), seed=0, side=0))["high_with_seeds"] > 1.0


def test_the_verdict_claims_only_what_leaves_out_one(results):
    said = "\n".join(verdict(results))
    assert "3 cameras, text: detailed reasoning lowers ADE@3s" in said
    assert "8 cameras, head: detailed reasoning lowers ADE@3s" in said
    assert "brief reasoning lowers" not in said
    assert "brief reasoning is not told apart from none" in said
    assert re.search(r"better: .*8-detailed/text", said)
    assert "with its images blacked out ADE@3s is larger for" in said
    assert re.search(r"trained otherwise: light/text / 3-detailed/text = 1.\d\d .*\(words weigh less\)", said)
    assert "aim: ADE@3s below 0.26 m and miss rate below 5.99 %: not reached" in said


def test_reasoning_that_does_harm_is_said_to(tmp_path):
    write_ablation(tmp_path, error_m={"none": 1.0, "brief": 1.0, "detailed": 2.0})
    said = "\n".join(verdict(collect(CONFIG, tmp_path)))
    assert "detailed reasoning raises ADE@3s" in said
    assert "lowers" not in said


def test_models_that_lose_to_the_blind_say_nothing_of_reasoning(tmp_path):
    """A constant answer may be twice as far off as another: neither has learnt to drive."""
    write_ablation(tmp_path, error_m={"none": 24.0, "brief": 12.0, "detailed": 12.0})
    said = "\n".join(verdict(collect(CONFIG, tmp_path)))
    assert "nothing can be said of detailed reasoning: 3-detailed / 3-none = 0.5" in said
    assert "but both are worse than blind_idm, which sees nothing" in said
    assert "lowers ADE@3s" not in said
    assert "aim: detailed / none at most 0.55 in ADE@3s: not reached" in said


def test_the_table_has_every_cell_answer_and_baseline(results):
    lines = table(results).split("\n")
    for cell, level in (("3-none", "none"), ("8-brief", "brief"), ("light", "detailed")):
        for answer, _ in asked(CONFIG, level):
            assert sum(line.split()[:2] == [cell, answer] for line in lines) == 1
    assert any(line.startswith("blind_idm") for line in lines)
    detailed = next(line for line in lines if line.split()[:2] == ["8-detailed", "text"])
    assert detailed.split()[-1] == "3"  # a failed answer of each seed


def test_an_unfinished_ablation_is_told_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="--resume"):
        collect(CONFIG, tmp_path)
    write_ablation(tmp_path)
    path = tmp_path / "evaluation" / "samples.jsonl"
    kept = [line for line in path.read_text().split("\n") if '"8-brief-s2.text"' not in line]
    path.write_text("\n".join(kept))
    with pytest.raises(ValueError, match=r"8-brief-s2.text: --resume"):
        collect(CONFIG, tmp_path)


def test_the_page_has_the_table_and_the_curves_and_loads_nothing(results, tmp_path):
    html = write_results(results, tmp_path).read_text()
    assert "constructed &lt;runs&gt;" in html
    assert "<script" not in html
    assert not re.search(r'(src|href)="(?!#|data:)', html)
    assert html.count("<svg") == 8  # two measures, two rigs, text and head
    assert html.count('<polyline class="line s2"') == 8
    assert html.count('<polyline class="line s3"') == 4  # the variant, beside the cells with as many cameras
    assert "<polygon" in html  # the seeds' band
    assert "1.0 minutes of processor time in all" in html
    markdown = (tmp_path / "ablation.md").read_text()
    assert "8-detailed, text" in markdown
    assert json.loads((tmp_path / "ablation.json").read_text()) == json.loads(json.dumps(results))


def test_the_same_folder_gives_the_same_bytes(out, tmp_path):
    for name in ("a", "b"):
        write_results(collect(CONFIG, out), tmp_path / name)
    for file in ("ablation.json", "ablation.md", "ablation.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_only_what_the_intervals_tell_apart_from_the_rest_is_marked_as_the_best():
    def results(**cells):
        named = ("value", "low_with_seeds", "high_with_seeds")
        return {
            "cells": {
                cell: {
                    "text": {"3s/ADE": dict(zip(named, numbers, strict=True))},
                    "text.black": {"3s/ADE": dict.fromkeys(named, 0.0)},
                }
                for cell, numbers in cells.items()
            }
        }

    assert best_cells(results(a=(1.0, 0.9, 1.1), b=(2.0, 1.9, 2.1))) == {("a", "text")}
    assert best_cells(results(a=(1.0, 0.9, 1.1), b=(1.05, 0.95, 1.2), c=(2.0, 1.9, 2.1))) == {
        ("a", "text"),
        ("b", "text"),
    }
    assert best_cells(results(a=(1.0, 0.9, 1.1), b=(1.0, 0.9, 1.1))) == set()  # nothing stands out
    assert best_cells(results(a=(1.0, None, None), b=(1.1, None, None))) == {("a", "text")}
    assert best_cells(results(a=(1.0, None, None))) == set()
