"""How long an evaluation takes: 100 000 predictions open loop, ours and the release's format, beside a plain Python loop over
the same two files; and what is said of 10 000 texts.

OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--rows 100000] [--texts 10000] [--folder DIR]

A small generated dataset (detailed texts) is repeated until there are enough rows, every id made unique, a scenario every five
rows; the answers are the labels with noise. Reading both files, all baselines, groups, intervals, paired tests and writing the
results are in our time; the plain loop reads the files with `json`, finds the points, and takes the means. Wall is what passed
on a machine that may do other things as well, CPU what was worked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Python looks beside this file first, and would take it for the package of the same name.
sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]

from eval.evaluate import evaluate  # noqa: E402
from eval.faithfulness.observed.measures import observe  # noqa: E402
from nsdrive.cli import main as nsdrive  # noqa: E402
from nsdrive.dataset import MANIFEST, Dataset, open_dataset, sha256_of, write_atomically  # noqa: E402
from nsdrive.vla.prompt import render_answer  # noqa: E402

BUDGET_S = 20.0  # for 100 000 predictions on one core
TEXTS_BUDGET_S = 60.0  # for 10 000 texts
ROWS_A_SCENARIO = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the files are made (about 3 GB); default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        small = folder / "small"
        if not small.exists():
            nsdrive(["generate", "data/demo", "scenarios.n_scenarios=34", "samples.trace_level=detailed", "train_share=0.0",
                     "val_share=0.0", "--out", str(small)])  # fmt: skip
        dataset = repeated(open_dataset(small), folder / "large", arguments.rows)
        compare(dataset, folder, arguments.rows)
        texts(open_dataset(small), arguments.texts)


def compare(dataset: Dataset, folder: Path, rows: int) -> None:
    shard = dataset.shards("test")[0]
    busy = f"{os.getloadavg()[0]:.1f} processes on {len(os.sched_getaffinity(0))} cores in the last minute"
    print(f"{rows} rows, {shard.stat().st_size / rows / 1e3:.1f} kB of dataset each; {busy}")
    print(f"{'':34s} {'wall s':>8s} {'CPU s':>8s} {'us a row':>9s}")
    spent: dict[str, float] = {}
    for words in ("ours", "release"):
        path = folder / f"{words}.jsonl"
        spent[words] = timed(
            f"evaluate, {words} format",
            rows,
            evaluate,
            [path],
            dataset,
            folder / f"out_{words}",
            overwrite=True,
            reasoning=False,
        )
        spent[f"plain {words}"] = timed(f"plain loop, {words} format", rows, plain_loop, path, shard)
        ratio = spent[f"plain {words}"] / spent[words]
        print(f"  the plain loop takes {ratio:.1f} times as long; budget {BUDGET_S * rows / 1e5:.0f} s: "
              f"{'met' if spent[words] <= BUDGET_S * rows / 1e5 else 'NOT met'}")  # fmt: skip
    timed(
        "evaluate, release, its own labels",
        rows,
        evaluate,
        [folder / "release.jsonl"],
        None,
        folder / "out_own",
        overwrite=True,
    )
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def texts(dataset: Dataset, wanted: int) -> None:
    """The labels' own texts, each read and held against its sample as if a model had written it."""
    samples = list(dataset.samples("test"))
    observe(samples[0], samples[0].answer, samples[0].waypoints_ego_m)  # compiles kernels

    def all_of_them() -> None:
        for k in range(wanted):
            sample = samples[k % len(samples)]
            observe(sample, sample.answer, sample.waypoints_ego_m)

    seconds = timed("observe, detailed texts", wanted, all_of_them)
    budget = TEXTS_BUDGET_S * wanted / 1e4
    print(f"  budget {budget:.0f} s: {'met' if seconds <= budget else 'NOT met'}")


def timed(words: str, rows: int, work: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    """Seconds of CPU; prints them."""
    wall, cpu = time.perf_counter(), time.process_time()
    work(*args, **kwargs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{words:34s} {wall:8.2f} {cpu:8.2f} {1e6 * cpu / rows:9.1f}", flush=True)
    return cpu


# ---- files ----------------------------------------------------------------------------------------------------------


def repeated(small: Dataset, out: Path, rows: int) -> Dataset:
    """A dataset folder of `rows` samples, and beside it the answers in both formats; those that are there are taken."""
    if (out / MANIFEST).exists() and open_dataset(out).manifest["counts"]["split"]["test"] == rows:
        return open_dataset(out)
    lines = [line.row() for line in small.lines("test")]
    rng = np.random.default_rng([5])
    out.mkdir(parents=True, exist_ok=True)
    shard = out / "test-00000.jsonl"
    with (
        shard.open("w") as data,
        (out.parent / "ours.jsonl").open("w") as ours,
        (out.parent / "release.jsonl").open("w") as release,
    ):
        for k in range(rows):
            row = lines[k % len(lines)]
            row |= {"id": f"r{k:06d}", "scenario": f"scene-{k // ROWS_A_SCENARIO:05d}"}
            data.write(json.dumps(row, ensure_ascii=False) + "\n")
            label = row["messages"][1]["content"]
            points = np.round(
                np.array(row["nsdrive"]["waypoints_ego_m"]) + np.cumsum(rng.normal(0.0, 0.1, (10, 2)), axis=0), 2
            )
            reasoning = label[label.find("<REASONING>") + 11 : label.find("</REASONING>")]
            text = render_answer(reasoning, points)
            answer = {"id": row["id"], "text": text, "waypoints_ego_m": points.tolist(), "error": None, "seconds": 0.5}
            ours.write(json.dumps(answer, ensure_ascii=False) + "\n")
            answer = {"orig_idx": k, "id": row["id"], "predict": text, "label": label}
            release.write(json.dumps(answer, ensure_ascii=False) + "\n")
    manifest = dict(small.manifest) | {"counts": {"split": {"test": rows}}, "files": {shard.name: sha256_of(shard)}}
    write_atomically(out / MANIFEST, json.dumps(manifest))
    return open_dataset(out)


# ---- the plain loop -------------------------------------------------------------------------------------------------

POINT = re.compile(r"\[(-?\d+(?:\.\d*)?),\s*(-?\d+(?:\.\d*)?)\]")


def plain_loop(predictions: Path, shard: Path) -> dict[str, float]:
    """Means at three horizons in plain Python: no intervals, no groups, no baselines, no strict numbers."""
    labels = {}
    with shard.open() as lines:
        for line in lines:
            row = json.loads(line)
            labels[row["id"]] = points_of(row["messages"][1]["content"])
    found: dict[str, list[float]] = {}
    with predictions.open() as lines:
        for line in lines:
            row = json.loads(line)
            predicted, label = points_of(row.get("predict") or row.get("text") or ""), labels.get(row["id"])
            if not predicted or not label:
                continue
            turns = [
                abs((a - b + 180.0) % 360.0 - 180.0) for a, b in zip(headings(predicted), headings(label), strict=False)
            ]
            gaps = [math.hypot(a - c, b - d) for (a, b), (c, d) in zip(predicted, label, strict=False)]
            for horizon, n in (("1s", 2), ("2s", 4), ("3s", 6)):
                used = gaps[:n]
                found.setdefault(f"ADE@{horizon}", []).append(sum(used) / len(used))
                found.setdefault(f"FDE@{horizon}", []).append(used[-1])
                found.setdefault(f"MR@{horizon}", []).append(float(used[-1] > 2.0))
                found.setdefault(f"AHE@{horizon}", []).append(sum(turns[:n]) / len(used))
                found.setdefault(f"FHE@{horizon}", []).append(turns[:n][-1])
    return {name: sum(values) / len(values) for name, values in found.items()}


def points_of(text: str) -> list[tuple[float, float]]:
    start = text.find("<PLANNING>")
    return [(float(x), float(y)) for x, y in POINT.findall(text, start)] if start >= 0 else []


def headings(points: list[tuple[float, float]]) -> list[float]:
    before, found = (0.0, 0.0), []
    for point in points:
        found.append(math.degrees(math.atan2(point[1] - before[1], point[0] - before[0])))
        before = point
    return found


if __name__ == "__main__":
    main()
