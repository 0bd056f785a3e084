"""What the tests of training share: a small configuration, its data, and trainings in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_fixtures import make_dataset

from nsdrive.vla.training.config import TrainConfig

FOUR_STEPS = TrainConfig(
    max_steps=4,
    per_device_batch_size=2,
    gradient_accumulation_steps=1,
    learning_rate=2e-3,
    warmup_steps=1,
    save_every_steps=2,
    min_image_pixels=1024,
    max_image_pixels=2048,
    tiny_vocabulary=512,
)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a training ended: the exit status by rank (-9: SIGKILL, None: it hung), and what all of them said."""

    statuses: list[int | None]
    said: str


def data_with_short_answers(folder: Path, *, n_train: int = 7) -> Path:
    """Short, for speed; their lengths differ, so that a mean of means would not be the mean."""
    make_dataset(folder, n_train=n_train, level="brief")
    shard = folder / "train-00000.jsonl"
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    for k, row in enumerate(rows):
        row["messages"][1]["content"] = "<REASONING>" + "Slow down. " * (1 + 2 * k) + "</REASONING>"
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def job(config: dict[str, Any], data: Path, out: Path, **more: Any) -> dict[str, Any]:
    """One training for `start`; `config` is what differs from FOUR_STEPS, `more` as run_train.py says."""
    return {"config": asdict(FOUR_STEPS) | config, "dataset": str(data), "out": str(out), **more}


def start(*jobs: dict[str, Any]) -> list[Ended]:
    """The jobs, one after the other, each in as many processes as it says."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    runner = [sys.executable, str(root / "tests" / "vla" / "run_train.py"), json.dumps(jobs)]
    done = subprocess.run(runner, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    ended = [Ended(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(ended) == len(jobs), done.stderr[-2000:]
    return ended


def end_of(one: dict[str, Any]) -> Ended:
    return start(one)[0]


def seen(out: Path, *, processes: int) -> dict[tuple[int, int], list[str]]:
    """(step, rank) -> the samples that process trained on in that step; a step done again after a resume counts once."""
    batches: dict[tuple[int, int], list[str]] = {}
    for rank in range(processes):
        lines = Path(f"{out}-seen-{rank}.jsonl").read_text().splitlines()
        for row in map(json.loads, lines):
            before = batches.setdefault((row["step"], rank), row["ids"])
            assert before == row["ids"], "a resumed run trains on what an undisturbed one would"
    return batches
