"""Which process ended a training of many, said in one line and by one process; and no process waits for it for ever.

A failing process (a bad sample, a loss that is not a number) leaves its line in the launcher's key-value store and ends.
A killed one breaks its connections: whoever notices first calls the roll, and who does not answer within 5 s is lost. A
thread in every process answers the roll, also while the process hangs in a collective of the GPUs, where no Python runs;
it looks after the next process by rank, and ends its own when another one's end is known.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

BEAT_S = 1.0  # chosen by us: how often the thread looks; three short messages to the store each time
ROLL_CALL_S = 5.0  # chosen by us: several beats, for machines that are busy
GRACE_S = 15.0  # chosen by us: for a process to end by itself before its thread ends it (torchrun kills after 30 s)
WAIT_S = 0.2  # chosen by us: how often a process that waits for another's work asks whether it is done
_FAILED, _HEARD, _ROLL, _DONE = "nsdrive/failed", "nsdrive/heard", "nsdrive/roll", "nsdrive/done"
_OF_COMMUNICATION = ("gloo", "nccl", "connection", "timed out", "timeout", "monitoredbarrier", "socket", "broken pipe")


class Roll:
    """The processes of one training by rank, in the launcher's store."""

    def __init__(self, store: Any, *, rank: int, count: int, timeout_s: float) -> None:
        self.rank, self.count, self.timeout_s = rank, count, timeout_s
        self._store = store
        self._closed, self._heard = threading.Event(), threading.Event()
        store.set(f"nsdrive/who/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
        own = store.clone()  # a store serves one caller at a time
        threading.Thread(target=self._watch, args=(own,), name="lost-processes", daemon=True).start()

    def close(self) -> None:
        """End the watching: from here on silence is no failure."""
        self._closed.set()

    def tell(self, line: str) -> bool:
        """Leave the reason why the training ends, for the others; True where it is the first, which stands."""
        mine = f"{self.rank}: {line}"
        kept: bytes = self._store.compare_set(_FAILED, "", mine)
        return kept.decode(errors="replace") == mine

    def told(self) -> bool:
        """Whether some process left a reason."""
        return self._heard.is_set() or self._hears(self._store)

    def let_others_hear(self) -> None:
        """Before the process that keeps the store ends, which torchrun keeps outside of them. Who is lost hears nothing."""
        if self.rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE"):
            return
        until_s = time.monotonic() + ROLL_CALL_S
        others = [f"{_HEARD}/{rank}" for rank in range(1, self.count)]
        while not self._store.check(others) and time.monotonic() < until_s:
            time.sleep(0.05)

    def note_done(self, work: str) -> None:
        """Let those go on who `wait_for` this work."""
        self._store.set(f"{_DONE}/{work}", "1")

    def wait_for(self, work: str) -> None:
        """Until the process that does this work has noted that it is done, however long that takes; OthersEnd if it fails."""
        while not self._store.check([f"{_DONE}/{work}"]):
            if self.told():
                raise OthersEnd
            time.sleep(WAIT_S)

    def missing(self) -> list[int]:
        """The ranks that do not answer within ROLL_CALL_S; empty as soon as another process has told the reason."""
        self._store.set(_ROLL, "1")
        until_s = time.monotonic() + ROLL_CALL_S
        left = [rank for rank in range(self.count) if rank != self.rank]
        while left and time.monotonic() < until_s:
            if self.told():
                return []
            left = [rank for rank in left if not self._store.check([f"nsdrive/here/{rank}"])]
            time.sleep(0.05)
        return left

    def who(self, rank: int) -> str:
        """'rank 3 (node-2, process 4711)'."""
        return _who(self._store, rank)

    def _watch(self, store: Any) -> None:
        after = (self.rank + 1) % self.count
        beat, seen, seen_s = 0, "", time.monotonic()
        try:
            while not self._closed.wait(BEAT_S):
                beat += 1
                store.set(f"nsdrive/beat/{self.rank}", str(beat))
                if store.check([_ROLL]):
                    store.set(f"nsdrive/here/{self.rank}", "1")
                if (now := _read(store, f"nsdrive/beat/{after}")) != seen:
                    seen, seen_s = now, time.monotonic()
                if time.monotonic() - seen_s > self.timeout_s:
                    line = f"{_who(store, after)} gave no sign of life for {self.timeout_s:.0f} s; so the others end"
                    store.compare_set(_FAILED, "", line)
                    print(f"{line}. Go on with --resume", file=sys.stderr, flush=True)
                if self._hears(store):
                    break
        except Exception:  # the store is gone, and with it the launcher or process that kept it
            pass
        if not self._closed.wait(GRACE_S):
            os._exit(1)  # the process hangs: this thread is all of it that still runs

    def _hears(self, store: Any) -> bool:
        if not store.check([_FAILED]):
            return False
        self._heard.set()
        store.set(f"{_HEARD}/{self.rank}", "1")
        return True


class OthersEnd(RuntimeError):
    """Another process has told why the training ends."""


@contextmanager
def failures_told(roll: Roll | None) -> Iterator[None]:
    """What ends this process is told to the others. What ended another is raised here by one; the rest leave quietly."""
    try:
        yield
    except Exception as error:
        if roll is None:
            raise
        if not _is_about_others(error):
            with suppress(Exception):  # the store may be gone too
                roll.tell(_first_line(error))
                roll.let_others_hear()
            raise
        line = "The process that the others meet at (MASTER_ADDR, usually rank 0) is gone. Go on with --resume"
        with suppress(Exception):
            line = _say_who_is_lost(roll, error)
        with suppress(Exception):
            roll.let_others_hear()
        if line:
            raise ConnectionError(line) from error
        raise SystemExit(1) from error


def _say_who_is_lost(roll: Roll, error: Exception) -> str:
    """The line that this process is to say, "" where another one says it."""
    missing = [] if roll.told() else roll.missing()
    if roll.told():
        return ""
    if missing:
        lost = ", ".join(roll.who(rank) for rank in missing)
        line = f"{lost} of {roll.count} processes ended without a word; so the others end. Go on with --resume"
    else:
        line = f"The processes no longer hear each other ({_first_line(error)}). Go on with --resume"
    return line if roll.tell(line) else ""


def _is_about_others(error: Exception) -> bool:
    text = str(error).lower()
    is_of_communication = isinstance(error, RuntimeError) and any(word in text for word in _OF_COMMUNICATION)
    return isinstance(error, OthersEnd) or is_of_communication


def _who(store: Any, rank: int) -> str:
    return f"rank {rank} ({_read(store, f'nsdrive/who/{rank}') or 'which never came'})"


def _read(store: Any, key: str) -> str:
    return store.get(key).decode(errors="replace") if store.check([key]) else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
