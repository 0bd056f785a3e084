"""Training runs in the report: how they learnt, with what settings, how fast.

blocks = training_blocks([load_training("out/run"), load_training("out/other")])

A run's folder is what `nsdrive train` leaves, finished or not: config.json, loss.jsonl, and where they are validation.jsonl and
train.json. Against samples seen, so that runs of other batch sizes and process counts lie over each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.report.block import Block, Named
from eval.report.curves import COLOURS, colour, curves, side_by_side
from eval.report.figures import Series
from eval.report.table import Cell, Table
from nsdrive.vla.training.logs import CONFIG, DONE, LOSSES, STOPPED, VALIDATIONS, read_log

NOTE = (
    "Loss: mean over the answer tokens of the global batch; of it, those of the reasoning and those of the plan. ADE@3s and miss "
    "rate: strict, on the same few samples of the validation split each time, by the text that the model writes (full line) and by "
    "its trajectory head (dashed). They tell where a run stands, with a few dozen samples not which of two is better: that is "
    "what an evaluation is for. A curve of many steps is drawn through means of equal stretches."
)
LOSS_PARTS = (
    ("loss", "total"),
    ("reasoning_loss", "reasoning"),
    ("planning_loss", "planning"),
    ("head_loss", "trajectory head"),
)
MEASURED = (("ADE@3s", "ADE@3s", "m", 1.0, 2), ("miss_rate@3s", "Miss rate at 3 s", "%", 100.0, 1))
WAYS = (("text", ""), ("head", ", head"))


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run. settings: its TrainConfig as written; losses, validations: the logs' rows; summary: train.json, None while it is
    not finished."""

    name: str
    folder: Path
    settings: Mapping[str, Any]
    dataset: str
    losses: Sequence[Mapping[str, Any]]
    validations: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] | None
    stopped: bool

    @property
    def state(self) -> str:
        if self.summary is not None:
            return "finished"
        return "stopped" if self.stopped else "not finished"

    def validated(self, what: str) -> list[Mapping[str, Any]]:
        return [row for row in self.validations if row.get("what") == what]


def is_training(folder: str | Path) -> bool:
    """Whether a folder is one of `nsdrive train`."""
    return any((Path(folder) / name).is_file() for name in (DONE, LOSSES))


def load_training(folder: str | Path) -> Training:
    """Read a run's folder. Raises ValueError for one that no training left."""
    folder = Path(folder)
    config = _object(folder / CONFIG)
    settings = config.get("train")
    if not isinstance(settings, dict):
        raise ValueError(f"{folder / CONFIG} has no settings of a training ('train')")
    losses = read_log(folder / LOSSES)
    if not losses:
        raise ValueError(f"{folder / LOSSES} has no row yet: there is nothing to show of this training")
    return Training(
        name=folder.resolve().name,
        folder=folder,
        settings=settings,
        dataset=str(config.get("dataset", "–")),
        losses=losses,
        validations=read_log(folder / VALIDATIONS),
        summary=_object(folder / DONE) if (folder / DONE).is_file() else None,
        stopped=(folder / STOPPED).is_file(),
    )


def training_blocks(runs: Sequence[Training]) -> list[Block]:
    """The chapter, [] for no runs; the first COLOURS of them are drawn."""
    if not runs:
        return []
    runs = _distinct(runs)
    left_out = [run.name for run in runs[COLOURS:]]
    more = f" The first {COLOURS} are drawn; without a line: {', '.join(left_out)}." if left_out else ""
    different, same = _settings(runs)
    tables = [Named(table=_summary(runs))]
    tables += [Named(table=different, caption="Settings that differ")] if different else []
    tables.append(Named(table=same, caption="Settings that are the same" if len(runs) > 1 else "Settings", folded=True))
    return [
        Block(
            anchor="training",
            title="How the runs learnt" if len(runs) > 1 else "How the run learnt",
            link="Training",
            note=NOTE + more,
            tables=tables,
            figure=_figures(runs[:COLOURS]),
        )
    ]


def _figures(runs: Sequence[Training]) -> str:
    """Losses, what the model can do, and the learning rate, each against samples seen."""
    measured = [_measured_figure(runs, *one) for one in MEASURED]
    rate = _figure(runs, "Learning rate", "learning_rate", y_label="learning rate x 10⁶", scale=1e6)
    if len(runs) == 1:
        return side_by_side([_parts_figure(runs[0]), *measured, rate])
    parts = [
        _figure(runs, f"Loss, {words}", key, y_label="loss", log_y=True, digits=3)
        for key, words in LOSS_PARTS
        if any(_points(run.losses, key)[0] for run in runs)
    ]
    return side_by_side([*parts, *measured, rate])


def _parts_figure(run: Training) -> str:
    """All losses of one run in one figure; the parts only where the total is not one of them alone."""
    series = []
    for k, (key, words) in enumerate(LOSS_PARTS):
        x, y = _points(run.losses, key)
        if x:
            series.append(Series(name=words, css=colour(k), x=x, y=y))
    return curves(series, title="Loss", x_label="samples seen", y_label="loss", log_y=True, digits=3)


def _measured_figure(runs: Sequence[Training], key: str, title: str, unit: str, scale: float, digits: int) -> str:
    series = []
    for k, run in enumerate(runs):
        for what, suffix in WAYS:
            x, y = _points(run.validated(what), key, scale)
            if x:
                name = f"{run.name}{suffix}" if len(runs) > 1 else {"text": "text", "head": "trajectory head"}[what]
                series.append(Series(name=name, css=colour(k), x=x, y=y, dashed=what == "head"))
    return curves(
        series,
        title=f"{title} on validation samples",
        x_label="samples seen",
        y_label=f"{title} [{unit}]",
        digits=digits,
    )


def _figure(
    runs: Sequence[Training],
    title: str,
    key: str,
    *,
    y_label: str,
    log_y: bool = False,
    digits: int = 2,
    scale: float = 1.0,
) -> str:
    points = [_points(run.losses, key, scale) for run in runs]
    series = [
        Series(name=run.name, css=colour(k), x=x, y=y) for k, (run, (x, y)) in enumerate(zip(runs, points, strict=True))
    ]
    return curves(series, title=title, x_label="samples seen", y_label=y_label, log_y=log_y, digits=digits)


def _points(rows: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
    """Samples seen and a number, of the rows that have both; the log of an older run counts steps."""
    found = [(_number(row.get("samples_seen", row["step"])), _number(row.get(key))) for row in rows]
    known = [(x, scale * y) for x, y in found if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]


# ---- tables ---------------------------------------------------------------------------------------------------------


def _summary(runs: Sequence[Training]) -> Table:
    lines = [_line(run) for run in runs]
    return Table(heads=list(lines[0]), rows=[list(line.values()) for line in lines])


def _line(run: Training) -> dict[str, Cell]:
    """Column's head -> this run's cell."""
    last, summary = run.losses[-1], run.summary or {}
    seconds = _total(run.losses, "seconds")
    waited = _total(run.losses, "data_wait_s")
    tokens = sum((_number(row.get("tokens_per_s")) or 0.0) * (_number(row.get("seconds")) or 0.0) for row in run.losses)
    on = f"{summary['processes']} x {summary['device']}, " if {"processes", "device"} <= summary.keys() else ""
    first = _number(run.losses[0].get("loss"))
    return {
        "": Cell(text=run.name, below=f"{on}{run.state}"),
        "steps": _cell(last["step"], 0),
        "samples\nseen": _cell(last.get("samples_seen"), 0),
        "loss": _cell(last.get("loss"), 3, below="" if first is None else f"from {first:.3f}"),
        "reasoning\nloss": _cell(last.get("reasoning_loss"), 3),
        "planning\nloss": _cell(last.get("planning_loss"), 3),
        "ADE@3s\ntext, m": _measured(run, "text", "ADE@3s", 1.0, 2),
        "miss rate\ntext, %": _measured(run, "text", "miss_rate@3s", 100.0, 1),
        "ADE@3s\nhead, m": _measured(run, "head", "ADE@3s", 1.0, 2),
        "tokens/s": _cell(tokens / seconds if seconds and tokens else None, 0),
        "data wait\n%": _cell(100.0 * waited / seconds if seconds and waited is not None else None, 1),
        "memory\nGB": _cell(last.get("gpu_memory_gb"), 1),
        "MFU\n%": _cell(_mean_mfu(run), 1),
        "hours": _cell(seconds / 3600.0 if seconds else None, 2),
    }


def _measured(run: Training, what: str, key: str, scale: float, digits: int) -> Cell:
    """The last measurement, beneath it on how many samples."""
    rows = run.validated(what)
    if not rows:
        return Cell(text="–")
    return _cell(rows[-1].get(key), digits, scale=scale, below=f"n {rows[-1].get('n', '–')}")


def _mean_mfu(run: Training) -> float | None:
    """Weighted by time, %; without the first row, in which kernels are compiled."""
    rows = [(m, s) for row in run.losses[1:] if (m := _number(row.get("mfu"))) and (s := _number(row.get("seconds")))]
    spent = math.fsum(s for _, s in rows)
    return 100.0 * math.fsum(m * s for m, s in rows) / spent if spent else None


def _settings(runs: Sequence[Training]) -> tuple[Table | None, Table]:
    """Settings by which several runs differ, None where there are none; and all the others."""
    names = ["data set", *dict.fromkeys(name for run in runs for name in run.settings)]
    values = {name: [_shown(run, name) for run in runs] for name in names}
    different = [name for name in names if len(set(values[name])) > 1]
    rows = [[Cell(text=name), *(Cell(text=value) for value in values[name])] for name in different]
    shared = [[Cell(text=name), Cell(text=values[name][0], words=True)] for name in names if name not in different]
    table = Table(heads=["", *(run.name for run in runs)], rows=rows) if rows else None
    return table, Table(heads=["setting", "value"], rows=shared, kinds=["words"] * len(shared))


def _shown(run: Training, name: str) -> str:
    value = run.dataset if name == "data set" else run.settings.get(name)
    return "–" if value is None else str(value) if not isinstance(value, list) else ", ".join(map(str, value))


def _distinct(runs: Sequence[Training]) -> list[Training]:
    """Runs whose folders have one name are called by their whole path."""
    names = [run.name for run in runs]
    return [replace(run, name=str(run.folder)) if names.count(run.name) > 1 else run for run in runs]


def _cell(value: Any, digits: int, *, scale: float = 1.0, below: str = "") -> Cell:
    number = _number(value)
    return Cell(text="–") if number is None else Cell(text=f"{scale * number:.{digits}f}", below=below)


def _total(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    found = [number for row in rows if (number := _number(row.get(key))) is not None]
    return math.fsum(found) if found else None


def _number(value: Any) -> float | None:
    """A finite number; None for anything else: a folder may come from anywhere."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"No {path}: this folder was not left by `nsdrive train`") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not readable JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    return found
