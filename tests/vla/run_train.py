"""Trainings of one or more processes, one after the other: python run_train.py '[{"config": {...}, "out": ...}, ...]'.

It imports the libraries once and forks every process of every job, where torchrun would start them anew: a third of the
time. Each process gets torchrun's environment variables, and nothing ends a process whose neighbour died: the training
itself has to. Prints one JSON line a job: {"statuses": [exit status by rank, -9 for SIGKILL], "said": stderr of all}.

A job: config, dataset, out, resume, processes, and what happens to it:
    kill_at: [rank, step]       SIGKILL right after that step, as a power cut would
    kill_in_save: step          likewise, on every process, in the middle of writing the checkpoint of that step
    signal_at: [rank, step, n]  signal n arrives at that process within that step
    no_memory_at: rank          that process's GPU memory does not suffice to answer
    patience_s: how long the roll may take
    first_takes_s: how much longer the first process takes for what it does alone, before the steps and after them
Sample ids are noted in OUT-seen-RANK.jsonl, a line a batch that was trained on: {"step": 3, "ids": [...]}.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from transformers.models.qwen3_5 import modeling_qwen3_5

from nsdrive.vla import train as training
from nsdrive.vla.inference.engine import OutOfMemory
from nsdrive.vla.inference.predictor import Predictor
from nsdrive.vla.train import TrainConfig, train
from nsdrive.vla.training import checkpoints, lost_processes, trainer
from nsdrive.vla.training.processes import import_deepspeed

IMPORTED = (modeling_qwen3_5, import_deepspeed())  # before the fork, so that no process has to
LIMIT_S = 300.0  # for one job; a quiet machine needs ten seconds


def main() -> None:
    for job in json.loads(sys.argv[1]):
        print(json.dumps(run(job)), flush=True)


def run(job: dict[str, Any]) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = job.get("processes", 1)
    with tempfile.TemporaryFile("w+") as said:
        children = [start(job, rank, count, port, said.fileno()) for rank in range(count)]
        statuses = wait(children)
        said.seek(0)
        return {"statuses": statuses, "said": said.read()}


def start(job: dict[str, Any], rank: int, count: int, port: int, said: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(said, 1)  # DeepSpeed logs there
        os.dup2(said, 2)
        if count > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        work(job, rank)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except (ValueError, OSError) as error:  # what the command line prints as one line
        print(f"error: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def wait(children: list[int]) -> list[int | None]:
    until_s = time.monotonic() + LIMIT_S
    statuses: list[int | None] = [None] * len(children)
    while None in statuses:
        for k, child in enumerate(children):
            if statuses[k] is None and (ended := os.waitpid(child, os.WNOHANG))[0]:
                statuses[k] = os.waitstatus_to_exitcode(ended[1])
        if time.monotonic() > until_s:  # a hang: left as None
            for k, child in enumerate(children):
                if statuses[k] is None:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
            break
        time.sleep(0.02)
    return statuses


def work(job: dict[str, Any], rank: int) -> None:
    lost_processes.ROLL_CALL_S = job.get("patience_s", 2.0)
    lost_processes.BEAT_S = 0.2
    note_samples(Path(f"{job['out']}-seen-{rank}.jsonl"))
    if (kill := job.get("kill_at")) and kill[0] == rank:
        in_step(kill[1] + 1, signal.SIGKILL)
    if (asked := job.get("signal_at")) and asked[0] == rank:
        in_step(asked[1], asked[2])
    if job.get("kill_in_save"):
        die_in_save(int(job["kill_in_save"]))
    if job.get("no_memory_at") == rank:
        have_no_memory()
    if slower_s := job.get("first_takes_s"):
        take_longer(slower_s)
    train(
        TrainConfig(**job["config"]),
        dataset=Path(job["dataset"]),
        out=Path(job["out"]),
        resume=job.get("resume", False),
    )


def note_samples(path: Path) -> None:
    loss = trainer.AnswerTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        with path.open("a") as file:
            file.write(json.dumps({"step": self.state.global_step + 1, "ids": list(inputs["sample_ids"])}) + "\n")
        return loss(self, model, inputs, *more, **named)

    trainer.AnswerTrainer.compute_loss = compute_loss  # type: ignore[method-assign]


def in_step(step: int, number: int) -> None:
    loss = trainer.AnswerTrainer.compute_loss

    def compute_loss(self: Any, *more: Any, **named: Any) -> Any:
        if self.state.global_step + 1 == step:
            os.kill(os.getpid(), number)
        return loss(self, *more, **named)

    trainer.AnswerTrainer.compute_loss = compute_loss  # type: ignore[method-assign]


def take_longer(seconds: float) -> None:
    prepare, finish = training._prepare_folder, training._finish

    def later(work: Any) -> Any:
        def working(*given: Any) -> None:
            time.sleep(seconds)
            work(*given)

        return working

    training._prepare_folder, training._finish = later(prepare), later(finish)  # type: ignore[assignment]


def have_no_memory() -> None:
    def waypoints(self: Any, questions: Any) -> Any:
        raise OutOfMemory("The GPU's memory does not suffice")

    Predictor.waypoints = waypoints  # type: ignore[method-assign]


def die_in_save(step: int) -> None:
    marked = checkpoints.Checkpoints.on_save

    def on_save(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        marked(self, args, state, control, **more)

    checkpoints.Checkpoints.on_save = on_save  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
