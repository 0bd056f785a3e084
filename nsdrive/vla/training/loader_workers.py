"""The processes that read samples ahead for a training: how they start, what a signal means to them, and how they end.

DataLoader(..., multiprocessing_context=start_method(workers), worker_init_fn=deaf_to_stops)
with ending_workers(dataset):
    ...
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from nsdrive.vla.training.stopping import SIGNALS


def start_method(workers: int) -> str | None:
    """A fork on Linux: processors do not travel as pickles, which Python 3.14 would send. None: Python's own choice."""
    return "fork" if workers and sys.platform == "linux" else None


def deaf_to_stops(worker: int, *, first: Callable[[int], None] | None = None) -> None:
    """A signal to all of a group, as launchers, schedulers and shells send it, is for the process that reads, which ends them."""
    if first is not None:
        first(worker)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def ending_workers(dataset: Any) -> Iterator[None]:
    """Those of every loader that reads the dataset end with the block, in order: left to the garbage collector they would hear
    nothing, be waited for 5 s each, and then be sent a SIGTERM."""
    try:
        yield
    finally:
        for one in gc.get_objects():
            # not isinstance, which asks objects that warn of themselves for their class
            if type(one) is _MultiProcessingDataLoaderIter and one._dataset is dataset:
                one._shutdown_workers()
                for process in one._workers:
                    if process.is_alive():  # it hangs, and hears no SIGTERM
                        process.kill()
