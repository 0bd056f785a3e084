"""Control rows: the same model asked again with something taken away, or given. Found beside a predictions file by name.

m.jsonl              the model's answers
m.black.jsonl        the same prompts with every image blacked out: what the ego's history alone tells the model
m.shuffled.jsonl     each prompt with another sample's images: are they looked at?
m.no_text.jsonl      the answer without its reasoning: is the text of use?
m.oracle_text.jsonl  the reasoning is the label's own: what a perfect text would be worth
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.open_loop.baselines import BASELINES

CONTROLS = {
    "black": "the same model, every image blacked out",
    "shuffled": "the same model, another sample's images",
    "no_text": "the same model, made to answer without reasoning",
    "oracle_text": "the same model, given the label's own reasoning",
}
WITHOUT_TEXT = "no_text"  # the control that owes no reasoning


def control_path(path: Path, control: str) -> Path:
    """Where the control of a predictions file lies: m.jsonl -> m.black.jsonl."""
    return path.with_name(f"{path.stem}.{control}{path.suffix}")


def with_controls(files: Mapping[str, Path]) -> dict[str, tuple[Path, str | None, str | None]]:
    """name -> (path, control, whose), the files given, each followed by its controls that lie beside it.

    A control that was given by itself keeps its given name, and is a control where its model was given too. One that was only found
    never takes the name of a file that was given.
    """
    taken = {path.resolve() for path in files.values()}
    parents = {control_path(path, c).resolve(): (c, name) for name, path in files.items() for c in CONTROLS}
    found: dict[str, tuple[Path, str | None, str | None]] = {}
    for name, path in files.items():
        control, parent = parents.get(path.resolve(), (None, None))
        found[name] = (path, control, parent)
        for other in CONTROLS:
            beside = control_path(path, other)
            called = f"{name}.{other}"
            if control is None and called not in files and beside.resolve() not in taken and beside.is_file():
                found[called] = (beside, other, name)
    return found


def missing_controls(
    files: Mapping[str, tuple[Path, str | None, str | None]], data: Path, split: str
) -> dict[str, list[str]]:
    """name -> the commands that would make the controls that are not there, for every file that may be a model's."""
    there = {(parent, control) for _, control, parent in files.values()}
    commands: dict[str, list[str]] = {}
    for name, (path, control, _) in files.items():
        if control is not None or name in BASELINES:
            continue
        absent = [c for c in CONTROLS if (name, c) not in there]
        if absent:
            commands[name] = [_command(path, c, data, split) for c in absent]
    return commands


def _command(path: Path, control: str, data: Path, split: str) -> str:
    words: Sequence[str] = (
        *("nsdrive", "predict", "--model", "MODEL", "--data", str(data), "--split", split),
        *("--control", control, "--out", str(control_path(path, control))),
    )
    return shlex.join(words)
