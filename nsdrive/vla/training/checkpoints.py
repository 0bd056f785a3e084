"""Checkpoints that can be trusted: one counts only when every process has written its part to the disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nsdrive.dataset import write_atomically
from nsdrive.vla.training.processes import wait_for_all

LATEST_UNIVERSAL = "latest_universal"  # DeepSpeed's name for the file that names a copy for any number of processes
COMPLETE = "complete.json"  # written into a checkpoint folder last: without it a checkpoint is not resumed from


class Checkpoints(TrainerCallback):
    """Marks a checkpoint complete once every process has written its part, and only then deletes older ones."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        wait_for_all()
        newest = newest_checkpoint(self._folder)
        if state.is_world_process_zero and newest is not None:
            forget_universal(newest)  # every process has loaded it

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        wait_for_all()
        if not state.is_world_process_zero:
            return
        folder = self._folder / f"checkpoint-{state.global_step}"
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        files.pop(COMPLETE, None)
        for path in files.values():
            flush_to_disk(path)
        whole = args.world_size * args.per_device_train_batch_size * args.gradient_accumulation_steps
        note = {
            "step": state.global_step,
            "processes": args.world_size,
            "global_batch": whole,
            "bytes": {name: path.stat().st_size for name, path in files.items()},
        }
        write_atomically(folder / COMPLETE, json.dumps(note) + "\n")
        for old in complete_checkpoints(self._folder)[: -self._keep]:
            (old / COMPLETE).unlink()  # first: a folder half deleted must not look complete
            shutil.rmtree(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to the end and are whole, oldest first: one that was copied may lack files."""
    found = [
        (int(path.parent.name.rpartition("-")[2]), path.parent) for path in folder.glob(f"checkpoint-*/{COMPLETE}")
    ]
    return [path for _, path in sorted(found) if _is_whole(path)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The one to go on from."""
    return next(reversed(complete_checkpoints(folder)), None)


def remove_incomplete_checkpoints(folder: Path) -> None:
    """What a killed process left half written, and what is no longer whole."""
    for path in set(folder.glob("checkpoint-*")) - set(complete_checkpoints(folder)):
        shutil.rmtree(path)


def read_note(checkpoint: Path) -> dict[str, Any]:
    """What was noted when it was complete: step, processes, global_batch, and the bytes of each file."""
    note: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    return note


def forget_universal(checkpoint: Path) -> None:
    """Delete the copy that any number of processes can load: it is loaded, or half done."""
    (checkpoint / LATEST_UNIVERSAL).unlink(missing_ok=True)
    for folder in checkpoint.glob("global_step*_universal"):
        shutil.rmtree(folder)


def _is_whole(checkpoint: Path) -> bool:
    sizes = read_note(checkpoint).get("bytes", {})
    return all((checkpoint / name).is_file() and (checkpoint / name).stat().st_size == n for name, n in sizes.items())


def flush_to_disk(path: Path) -> None:
    """What was written to a file outlives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
