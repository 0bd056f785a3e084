"""Many independent jobs on one machine, their results in order."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

WATCH_S = 0.5  # chosen by us
J = TypeVar("J")
R = TypeVar("R")


def in_order(work: Callable[[J], R], jobs: Sequence[J], workers: int) -> Iterator[R]:
    """`work(job)` for every job, results in the jobs' order, in this process for one worker, else in `workers` processes.

    `work` and the jobs must be picklable where workers > 1. Raises ValueError for workers < 1, ChildProcessError where one was
    killed.
    """
    check_workers(workers)
    if workers == 1 or len(jobs) <= 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy numba's and OpenCV's threads half alive
    n = min(workers, len(jobs))
    with ProcessPoolExecutor(n, mp_context=context, initializer=_leave_with, initargs=(os.getpid(),)) as pool:
        try:
            yield from pool.map(work, jobs)
        except BrokenProcessPool:
            raise ChildProcessError("a worker process was killed; for lack of memory? Take fewer --workers") from None


def leave_with(parent: int, leave: Callable[[], object]) -> None:
    """In a child process: `leave` when the parent is gone, also where that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        leave()

    threading.Thread(target=watch, daemon=True).start()


def _leave_with(parent: int) -> None:
    """A worker of a pool would wait for work for ever: it holds both ends of what it reads from."""
    leave_with(parent, partial(os._exit, 1))


def check_workers(workers: int) -> None:
    """ValueError for workers < 1: for who writes something before the work begins."""
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
