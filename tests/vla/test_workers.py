"""Many answering processes: each batch is answered once, by whoever is free; one that dies ends the run with a line that helps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsdrive.questions import Question
from nsdrive.vla import infer
from nsdrive.vla.infer import predict
from nsdrive.vla.inference import workers as module
from nsdrive.vla.inference.workers import Batch, Workers, share_gpus

# A worker that knows no model: it says which GPU it has and who it is, and does what its work tells it to.
STAND_IN = """
import json, os, sys, time
work = json.loads(sys.stdin.readline())
if work.get("broken"):
    print(json.dumps({"error": "No model folder gone"}), flush=True)
    sys.exit(1)
print(json.dumps({"device": "cpu"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if any(question["id"] == work.get("dies_of") for question in asked):
        print("Traceback ...\\nMemoryError: no room for it", file=sys.stderr, flush=True)
        os.kill(os.getpid(), 9)
    time.sleep(work.get("takes_s", 0.0))
    rows = [{"id": question["id"], "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid(),
             "threads": os.environ.get("OMP_NUM_THREADS")} for question in asked]
    print(json.dumps({"rows": rows, "tally": {"n_tokens": len(rows)}}), flush=True)
"""

Start = Callable[..., Workers]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    monkeypatch.setattr(module, "PROGRAM", (sys.executable, str(program)))

    def started(*gpus: list[str], **work: Any) -> Workers:
        return Workers(work, gpus)

    return started


def batches(n: int, size: int = 2) -> list[tuple[int, list[Question]]]:
    return [
        (k, [Question(question_id=f"q{k}-{i}", sample_id=f"s{k}-{i}", kind="free") for i in range(size)])
        for k in range(n)
    ]


def ids_of(answered: list[Batch]) -> dict[int, list[str]]:
    return {one.number: [row["id"] for row in one.rows] for one in answered}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


def test_every_batch_is_answered_once_and_all_workers_work_each_on_its_gpus(start: Start) -> None:
    with start(["4"], ["5", "7"], takes_s=0.2) as workers:
        answered = list(workers.answer(batches(6)))
    assert ids_of(answered) == {k: [f"q{k}-0", f"q{k}-1"] for k in range(6)}
    assert {row["gpu"] for one in answered for row in one.rows} == {"4", "5,7"}
    assert not any(alive(row["pid"]) for one in answered for row in one.rows)
    assert [one.tally for one in answered] == [{"n_tokens": 2}] * 6


def test_fewer_batches_than_workers_and_none_at_all_end(start: Start) -> None:
    with start([], [], []) as workers:
        assert ids_of(list(workers.answer(batches(1)))) == {0: ["q0-0", "q0-1"]}
    with start([], []) as workers:
        assert list(workers.answer([])) == []


def test_workers_on_one_cpu_share_its_cores(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with start([], []) as workers:
        (batch,) = workers.answer(batches(1))
    assert batch.rows[0]["threads"] == str(max(1, (os.cpu_count() or 1) // 2))


def test_a_worker_that_dies_is_one_line_with_its_gpu_its_samples_and_its_last_words(start: Start) -> None:
    answered: list[Batch] = []
    with (
        start(["0"], ["1"], dies_of="q2-1", takes_s=0.05) as workers,
        pytest.raises(ValueError, match="was killed") as caught,
    ):
        answered.extend(workers.answer(batches(4)))
    told = str(caught.value)
    assert "\n" not in told
    for part in ("was killed (SIGKILL) while answering s2-0 to s2-1", "MemoryError: no room for it", "--resume", "GPU"):
        assert part in told, told


def test_a_worker_that_cannot_begin_says_why_in_its_own_words(start: Start) -> None:
    with pytest.raises(ValueError, match=r"^No model folder gone$"), start([], broken=True) as workers:
        list(workers.answer(batches(1)))


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    parent = f"""
import sys, time
from nsdrive.questions import Question
from nsdrive.vla.inference import workers
workers.PROGRAM = (sys.executable, {str(stand_in)!r})
asked = [(k, [Question(question_id="q", sample_id="s", kind="free")]) for k in range(9)]
for batch in workers.Workers({{"takes_s": 0.05}}, [[], []]).answer(asked):
    print(batch.rows[0]["pid"], flush=True)
    if batch.number >= 4:
        time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(5)}
        process.send_signal(signal.SIGKILL)
    until_s = time.monotonic() + 20.0
    while any(map(alive, pids)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_gpus_are_shared_out_as_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert share_gpus(4) == [["0"], ["1"], ["2"], ["3"]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,6,7")
    assert share_gpus(2, tensor_parallel=2) == [["2", "3"], ["6", "7"]]
    with pytest.raises(ValueError, match="--workers 3 with 2 GPUs each need 6 GPUs, there are 4"):
        share_gpus(3, tensor_parallel=2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert share_gpus(3) == [[], [], []]
    with pytest.raises(ValueError, match="--workers must be at least 1"):
        share_gpus(0)


def test_a_dead_worker_loses_no_finished_row_and_the_rest_is_made_by_another_number_of_workers(
    model: Path, dataset: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = infer.Workers

    def rows(kind: str) -> Any:
        def made(work: Any, gpus: Any) -> Workers:
            return real({"dies_of": "test-2"} if kind == "dies" else {}, gpus)

        return made

    out = tmp_path / "p.jsonl"
    monkeypatch.setattr(infer, "_summary", lambda *a, **k: None)
    monkeypatch.setattr(infer, "Workers", rows("dies"))
    with pytest.raises(ValueError, match="go on with --resume"):
        predict(model, dataset=dataset, out=out, batch_size=1, workers=2)
    kept = [json.loads(line)["id"] for line in (tmp_path / "p.jsonl.part").read_text().splitlines()[1:]]
    assert set(kept) <= {"test-0", "test-1", "test-3", "test-4"}
    monkeypatch.setattr(infer, "Workers", rows("lives"))
    told: list[tuple[int, int]] = []
    predict(model, dataset=dataset, out=out, batch_size=1, workers=3, resume=True, progress=lambda *n: told.append(n))
    assert len(told) == 5 - len(kept), "what was kept is not asked again"
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [f"test-{k}" for k in range(5)]


@pytest.mark.slow
def test_two_workers_write_what_one_writes_though_one_of_them_is_killed_on_the_way(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    def without_times(path: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]

    how: dict[str, Any] = {"dataset": dataset, "batch_size": 2, "max_reasoning_tokens": 6}
    predict(model, out=tmp_path / "one.jsonl", **how)

    def kill(done: int, total: int) -> None:
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        mine = [line.split() for line in listed.splitlines() if "nsdrive.vla.inference.worker" in line]
        os.kill(next(int(pid) for pid, parent, *_ in mine if int(parent) == os.getpid()), signal.SIGKILL)

    with pytest.raises(ValueError, match=r"Worker [12] of 2 was killed \(SIGKILL\)"):
        predict(model, out=tmp_path / "two.jsonl", workers=2, progress=kill, **how)
    done = predict(model, out=tmp_path / "two.jsonl", workers=2, resume=True, **how)
    assert done.n == 5
    assert 0 < done.n_new < 5
    assert without_times(tmp_path / "two.jsonl") == without_times(tmp_path / "one.jsonl")
