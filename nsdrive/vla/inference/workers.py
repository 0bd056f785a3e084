"""The same questions answered by many processes, one for each GPU (or group of GPUs), or several on the CPU.

    with Workers(work, 4) as workers:
        for batch in workers.answer([(0, questions), (1, questions), ...]):     # in any order: whoever is free takes the next
            batch.number, batch.rows, batch.tally

Batches are the same as for one process, so their rows are too. A worker that dies ends it all with one line. Workers are
programs of their own that speak JSON: nothing is pickled, and none outlives the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import nsdrive
from nsdrive.parallel import check_workers
from nsdrive.questions import Question

PROGRAM = (sys.executable, "-m", "nsdrive.vla.inference.worker")
SHOWN = 300  # letters of a dead worker's last words


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows that answer a batch of questions, its number, and what generating them took (`nsdrive.vla.answering.Tally`)."""

    number: int
    rows: list[dict[str, Any]]
    tally: dict[str, Any]


class Workers:
    """work: the arguments of `nsdrive.vla.answering.answerer`, plain enough for JSON. gpus: of each worker, none on the CPU.

    device: what the models are on; started_s: when the first was loaded. ValueError where one fails or dies.
    """

    def __init__(self, work: Mapping[str, Any], gpus: Sequence[Sequence[str]]) -> None:
        self.device, self.started_s = "cpu", time.monotonic()
        self._events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers = [_Worker(k, len(gpus), own, work, self._events) for k, own in enumerate(gpus)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()

    def answer(self, batches: Iterable[tuple[int, Sequence[Question]]]) -> Iterator[Batch]:
        """Every batch's answers, as they come."""
        waiting = iter(batches)
        n_open = 0
        more = True
        while more or n_open:
            worker, message = self._events.get()
            if message is None:
                raise ValueError(worker.obituary())
            if "error" in message:
                raise ValueError(str(message["error"]))
            if "device" in message:
                self.device = str(message["device"])
                self.started_s = self.started_s if n_open else time.monotonic()
            else:
                n_open -= 1
                assert worker.batch is not None, "rows answer a batch"
                done = Batch(number=worker.batch[0], rows=message["rows"], tally=message["tally"])
                worker.batch = None
                yield done
            following = next(waiting, None)
            if following is None:
                more = False
                continue
            worker.ask(*following)
            n_open += 1


class _Worker:
    def __init__(
        self, number: int, n_workers: int, gpus: Sequence[str], work: Mapping[str, Any], events: queue.Queue[Any]
    ) -> None:
        self._name = f"Worker {number + 1} of {n_workers}" + (f" (GPU {', '.join(gpus)})" if gpus else "")
        self.batch: tuple[int, Sequence[Question]] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the worker lives)
        self._process = subprocess.Popen(
            PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(n_workers, gpus),
            start_new_session=True,  # Ctrl-C is for the parent to hear, and what a worker starts ends with it
            encoding="utf-8",
        )
        self._send(json.dumps(dict(work)))
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def ask(self, number: int, questions: Sequence[Question]) -> None:
        self.batch = number, questions
        self._send(json.dumps([question.to_row() for question in questions]))

    def obituary(self) -> str:
        try:
            status = self._process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:  # it fell silent, but lives
            self._process.kill()
            status = self._process.wait()
        how = f"was killed ({_signal(-status)})" if status < 0 else f"ended with status {status}"
        asked = [question.sample_id for question in self.batch[1]] if self.batch is not None else []
        when = f"while answering {asked[0]} to {asked[-1]}" if asked else "before its first answer"
        self._log.seek(0)
        words = self._log.read().decode("utf-8", "replace").strip().rpartition("\n")[2][:SHOWN]
        return (
            f"{self._name} {how} {when}{f': {words}' if words else ''}. What is answered is kept: go on with --resume"
        )

    def end(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # that it is dead is heard by its listener
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _listen(self, events: queue.Queue[Any]) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # half a line of a dying worker; a pipe that was closed meanwhile
            for line in self._process.stdout:
                events.put((self, json.loads(line)))
        events.put((self, None))


def share_gpus(workers: int, tensor_parallel: int = 1) -> list[list[str]]:
    """The GPUs of each worker, as CUDA_VISIBLE_DEVICES names them; none for all of them without a GPU.

    ValueError where there are too few.
    """
    import torch

    check_workers(workers)
    n_gpus = torch.cuda.device_count()
    if n_gpus == 0:
        return [[] for _ in range(workers)]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",")[:n_gpus] if named else [str(k) for k in range(n_gpus)]
    if workers * tensor_parallel > n_gpus:
        each = f" with {tensor_parallel} GPUs each" if tensor_parallel > 1 else ""
        raise ValueError(f"--workers {workers}{each} need {workers * tensor_parallel} GPUs, there are {n_gpus}")
    return [gpus[k * tensor_parallel : (k + 1) * tensor_parallel] for k in range(workers)]


def _environment(n_workers: int, gpus: Sequence[str]) -> dict[str, str]:
    environment = dict(os.environ)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    elif n_workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_workers)))
    package = str(Path(nsdrive.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    return environment


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
