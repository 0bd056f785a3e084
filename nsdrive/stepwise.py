"""Command lines run side by side, each step in a process of its own, and a folder that knows which are done.

    run_steps(steps(config, out), out, at_once=2)       # 0, or the exit status of the step that failed

A step that is done leaves `out`/steps/NAME.json and is never run again; what one printed is in `out`/logs/NAME.txt. One that
was stopped is gone on with: its finished lines are told to resume, which for them is nothing to do. Steps that run when one
fails are stopped, as on Ctrl-C and when the terminal is closed; they stop by themselves where this process is killed.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nsdrive.ablation import Line, Step
from nsdrive.dataset import write_atomically

RESUMES = ("generate", "derive", "train", "predict")  # verbs with --resume; others are quick and begin anew
TAIL = 12  # lines of a failed step's log that are shown
POLL_S = 0.1
ENDING = (signal.SIGTERM, signal.SIGHUP)  # the latter where a terminal is closed
STOP_S = 30.0  # chosen by us: a training that is told to stop writes a checkpoint first
LEAVE_WITH_US = """
import os, signal, sys
from nsdrive.parallel import leave_with
leave_with(int(sys.argv[2]), lambda: os.killpg(0, signal.SIGTERM))
"""
WORKER = """
import json, shlex, sys
from nsdrive.cli import main
for line in json.loads(sys.argv[1]):
    print("\\n$ nsdrive " + shlex.join(line), flush=True)
    status = main(line)
    if status:
        sys.exit(status)
"""


@dataclass(kw_only=True)
class Started:
    """A step that runs."""

    step: Step
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    since_s: float


def run_steps(
    wanted: Sequence[Step],
    out: Path,
    *,
    at_once: int = 1,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> int:
    """Run what is not done yet, `at_once` steps at a time. Returns the exit status of the first that fails, else 0.

    Raises ValueError where a step that is done was done with other lines.
    """
    done = {step.name for step in wanted if _is_done(step, out)}
    known = {step.name for step in wanted}
    assert all(set(step.after) <= known for step in wanted), "a step waits for one that there is not"
    waiting = [step for step in wanted if step.name not in done]
    running: list[Started] = []
    environment = _environment(at_once)
    began_s = time.monotonic()
    signals = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one
    before = {number: signal.signal(number, _as_interrupt) for number in signals}
    try:
        while waiting or running:
            while len(running) < at_once:
                ready = next((step for step in waiting if set(step.after) <= done), None)
                if ready is None:
                    break
                waiting.remove(ready)
                running.append(_start(ready, out, environment))
            for one in list(running):
                before_s = _spent_s()
                if one.process.poll() is None:
                    continue
                running.remove(one)
                one.log.close()
                seconds, cpu_s = time.monotonic() - one.since_s, _spent_s() - before_s
                if one.process.returncode:
                    say(_failed(one, out))
                    return one.process.returncode if one.process.returncode > 0 else 1
                note = {"lines": one.step.lines, "seconds": round(seconds, 2), "cpu_seconds": round(cpu_s, 2)}
                write_atomically(_note(one.step, out), json.dumps(note, indent=1) + "\n")
                done.add(one.step.name)
                say(f"[{len(done)}/{len(wanted)}, {time.monotonic() - began_s:.0f} s] {one.step.name}: {seconds:.0f} s")
            time.sleep(POLL_S)
    finally:
        _stop(running)
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def spent_by(wanted: Sequence[Step], out: Path) -> dict[str, dict[str, float]]:
    """Step -> the seconds that it took, and those that cores worked for it: on a machine with other work these say more."""
    notes = {step.name: _note(step, out) for step in wanted}
    read = {name: json.loads(note.read_text(encoding="utf-8")) for name, note in notes.items() if note.is_file()}
    return {name: {key: float(note[key]) for key in ("seconds", "cpu_seconds")} for name, note in read.items()}


def _spent_s() -> float:
    """What all processes that have been waited for worked, their own children too."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start(step: Step, out: Path, environment: Mapping[str, str]) -> Started:
    log = out / "logs" / f"{step.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [resumed(line) for line in step.lines]
    file = log.open("ab")
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVE_WITH_US + WORKER, json.dumps(lines), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # so that Ctrl-C reaches it through us, with time to write a checkpoint
    )
    return Started(step=step, process=process, log=file, since_s=time.monotonic())


def resumed(line: Line) -> Line:
    """The line, told to go on where its output has been begun."""
    out = Path(line[line.index("--out") + 1])
    begun = out.with_name(f"{out.name}.part").exists() or (out.exists() and (out.is_file() or any(out.iterdir())))
    if not begun:
        return line
    return (*line, "--resume" if line[0] in RESUMES else "--overwrite")


def _is_done(step: Step, out: Path) -> bool:
    note = _note(step, out)
    if not note.is_file():
        return False
    before = [_result_of(tuple(line)) for line in json.loads(note.read_text(encoding="utf-8"))["lines"]]
    now = [_result_of(line) for line in step.lines]
    if before != now:
        changed = next((shlex.join(a) for a, b in zip(before, now, strict=False) if a != b), "its lines")
        raise ValueError(f"{out} has the step {step.name} done otherwise ({changed[:200]}): use --overwrite")
    return True


def _result_of(line: Line) -> Line:
    """The line without what its output does not depend on: the number of workers."""
    if "--workers" not in line:
        return line
    at = line.index("--workers")
    return (*line[:at], *line[at + 2 :])


def _note(step: Step, out: Path) -> Path:
    return out / "steps" / f"{step.name}.json"


def _environment(at_once: int) -> dict[str, str]:
    """Each process takes its share of the cores: numerical libraries that each take all of them stand in each other's way."""
    share = max(1, (os.cpu_count() or 1) // at_once)
    return {"OMP_NUM_THREADS": str(share), "TOKENIZERS_PARALLELISM": "false", **os.environ}


def _failed(one: Started, out: Path) -> str:
    log = out / "logs" / f"{one.step.name}.txt"
    tail = log.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")[-TAIL:]
    return "\n".join([f"step {one.step.name} failed (exit status {one.process.returncode}); the end of {log}:", *tail])


def _stop(running: Sequence[Started]) -> None:
    """End what runs, first by asking."""
    for one in running:
        _signal(one, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_S
    for one in running:
        try:
            one.process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(one, signal.SIGKILL)
            one.process.wait()
        one.log.close()


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _signal(one: Started, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(one.process.pid, number)
