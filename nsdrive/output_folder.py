"""Folders and files that a verb writes: claimed before anything is made, and with a note of the settings that they were begun with.

claim_folder(out, resume=resume, overwrite=overwrite, marker="packing.json")
claim_file(out, resume=resume)                          # of a verb that has no --overwrite
settle(out, "packing.json", {"seed": 0, ...})           # written, or of a resumed folder compared
changes({"seed": 0}, {"seed": 1})                       # "seed: 0 -> 1", "" where they are the same
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nsdrive.dataset import MANIFEST, write_atomically

REPLACED = ".overwritten"  # in a folder that is being replaced: what was in it
SHOWN = 3, 60  # chosen by us: changes that an error names, and letters of each value


def claim_folder(out: Path, *, resume: bool, overwrite: bool, marker: str) -> None:
    """Make `out` ready to be written: new, resumed or overwritten. Anything else that exists is refused.

    marker: a file or folder name that only an output of this kind has, so that --overwrite cannot delete a stranger, nor
    --resume write into one.
    """
    refuse_both(resume=resume, overwrite=overwrite)
    refuse_inside_dataset(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder")
    if out.exists() and any(out.iterdir()):
        was_replaced = (out / REPLACED).exists()
        is_ours = (out / marker).exists() or was_replaced
        is_strange = not is_ours and any(not path.name.startswith(".") for path in out.iterdir())
        if (overwrite or resume) and is_strange:
            done = "overwritten" if overwrite else "gone on with"
            raise ValueError(f"{out} holds something else (no {marker} in it): not {done}. Choose another --out")
        if resume and was_replaced:
            raise ValueError(f"{out} was being replaced when that was stopped: give --overwrite again")
        if overwrite:
            _empty(out, marker)
        elif not resume:
            raise ValueError(f"{out} exists. Go on with --resume, replace it with --overwrite, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)


def claim_file(out: Path, *, resume: bool | None = None, overwrite: bool | None = None) -> None:
    """ValueError where `out` cannot be written, or exists and that is not wanted. None: the verb has no such flag."""
    refuse_both(resume=bool(resume), overwrite=bool(overwrite))
    refuse_inside_dataset(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give a file")
    strange = next((folder for folder in out.parents if folder.exists() and not folder.is_dir()), None)
    if strange is not None:
        raise ValueError(f"{out} cannot be made: {strange} is a file")
    if out.exists() and not (resume or overwrite):
        ways = ["go on with --resume"] if resume is not None else []
        ways += ["delete it" if overwrite is None else "replace it with --overwrite"]
        raise ValueError(f"{out} exists: {', '.join(ways)}, or choose another --out")


def refuse_both(*, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")


def refuse_dataset(out: Path) -> None:
    """ValueError where `out` is a dataset or lies in one: whatever is written there makes it untrue to its manifest."""
    refuse_inside_dataset(out / "anything")


def refuse_inside_dataset(out: Path) -> None:
    """As `refuse_dataset`, of a folder or file that may itself be a dataset's folder, to be resumed or replaced."""
    for folder in out.resolve().parents:
        if _is_dataset(folder):
            raise ValueError(
                f"{out} lies in the dataset {folder}, which holds nothing but its own files: choose another --out"
            )


def refuse_in_each_other(dataset: Path, out: Path) -> None:
    """ValueError where a folder that is made of a dataset lies in it, or holds it."""
    here, there = out.resolve(), dataset.resolve()
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        raise ValueError(f"{out} and the dataset {dataset} must not lie in each other: choose another --out")


def settle(out: Path, name: str, settings: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
    """Write the settings of a folder that is begun into its file `name`, or see that a resumed one was begun with the same.

    free: names of those that change no result. ValueError naming the others that are not as they were.
    """
    path, now = out / name, json.loads(json.dumps(settings))
    if path.is_file():
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ValueError(f"{path} cannot be read: use --overwrite, or another --out") from None
        changed = changes(*({k: v for k, v in each.items() if k not in free} for each in (before, now)))
        if changed:
            raise ValueError(
                f"{out} was begun with other settings or data ({changed}): give the same, use --overwrite, "
                "or choose another --out"
            )
        if before == now:
            return
    write_atomically(path, json.dumps(now, indent=2, sort_keys=True) + "\n")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is not as it was, for an error: 'seed: 0 -> 1; train.epochs: 3 -> 4', '' where everything is."""
    most, letters = SHOWN
    found = list(_changed(before, now, ""))
    told = [f"{name}: {_short(old, letters)} -> {_short(new, letters)}" for name, old, new in found[:most]]
    return "; ".join(told + ([f"and {len(found) - most} more"] if len(found) > most else []))


def _empty(folder: Path, marker: str) -> None:
    """Killed half way through, it must not leave what --resume would go on from: the marker goes first, and all before any.

    Not the folder itself, which may be a link's, a mount, or where one stands.
    """
    aside = folder / REPLACED / uuid.uuid4().hex
    aside.mkdir(parents=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name != marker):
        if path.name != REPLACED:
            path.rename(aside / path.name)
    shutil.rmtree(folder / REPLACED)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changed(old, new, f"{where}{name}.")
        elif old != new:
            yield f"{where}{name}", old, new


def _short(value: Any, letters: int) -> str:
    text = repr(value)
    return text if len(text) <= letters else f"{text[:letters]}..."


def _is_dataset(folder: Path) -> bool:
    """Whether a manifest of ours lies in it; a stranger's manifest.json says nothing of samples."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "format_version" in manifest and ("files" in manifest or "shards" in manifest)
