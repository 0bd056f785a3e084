"""Where a run's numbers can be looked at while it trains: TensorBoard, Weights & Biases, Trackio.

    with open_tracking(("tensorboard",), folder=Path("out/run"), config={...}, resumed_step=0) as tracking:
        tracking.log(step, {"train/loss": 1.2, "train/head_loss": None})

Nothing leaves the machine unless the user says so (WANDB_MODE=online, TRACKIO_SPACE_ID). The numbers themselves are in
loss.jsonl and validation.jsonl whatever happens here: a tracker that is not installed or fails says so in one line and is
then left out; it never ends a training.

    tensorboard   RUN/tensorboard/, event files; a resumed run's hide what was logged after its checkpoint
    wandb         RUN/wandb/offline-run-*, to be sent by `wandb sync`; a resumed run has the same id
    trackio       where `trackio show --project nsdrive` looks (TRACKIO_DIR); a resumed run goes on in the same one
"""

from __future__ import annotations

import json
import math
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from nsdrive.config import did_you_mean
from nsdrive.dataset import write_atomically
from nsdrive.vla.training.logs import LOSSES, VALIDATIONS, read_log

TRACKERS = ("tensorboard", "wandb", "trackio")
PROJECT = "nsdrive"
IDENTITY = "tracking.json"  # the id under which services know the run


class Tracker(Protocol):
    """One place that numbers are sent to. Any exception of it is its end, not the training's."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Tracking:
    """All trackers of a run; none of them on a process that is not the first."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Send numbers by their names; what is None or not finite is left out."""
        known = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
        if known:
            self._each(lambda tracker: tracker.log(step, known))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                work(tracker)
            except Exception as error:
                del self._trackers[name]
                _say(f"{name} failed and is left out from here on ({_first_line(error)}); loss.jsonl has every number")


def open_tracking(names: Sequence[str], *, folder: Path, config: Mapping[str, Any], resumed_step: int) -> Tracking:
    """Trackers of a run folder, by their names in TRACKERS. config is shown beside the numbers.

    resumed_step: of the checkpoint that a resumed run goes on from, 0 for a new one.
    """
    trackers: dict[str, Tracker] = {}
    for name in names:
        try:
            trackers[name] = _OPEN[name](folder, config, resumed_step)
        except ImportError:
            _say(f"{name} is not installed, so nothing is sent there (pip install {name}); loss.jsonl has every number")
        except Exception as error:
            _say(f"{name} cannot be used and is left out ({_first_line(error)}); loss.jsonl has every number")
    return Tracking(trackers)


def check_trackers(names: Sequence[str]) -> None:
    """ValueError for a name that is not known, or twice."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"No tracker '{name}'. {did_you_mean(name, TRACKERS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"track names one tracker twice: {', '.join(names)}")


class _TensorBoard:
    def __init__(self, folder: Path, config: Mapping[str, Any], resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step: its readers then forget what an earlier process logged from there on
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)
        if not resumed_step:
            self._writer.add_text("config", _as_table(config), 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, config: Mapping[str, Any], resumed_step: int) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=_identity(folder),
            resume="allow",
            dir=str(folder),
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, folder: Path, config: Mapping[str, Any], resumed_step: int) -> None:
        import trackio

        self._trackio = trackio
        # It cannot take back what was logged after the checkpoint. Those numbers will come again, the same: skip them.
        self._logged = _last_logged_steps(folder)
        with redirect_stdout(sys.stderr):
            trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=f"{folder.resolve().name}-{_identity(folder)}",
                config=dict(config),
                resume="allow",
                embed=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        new = {name: value for name, value in values.items() if step > self._logged.get(name.rpartition("/")[0], 0)}
        if new:
            self._trackio.log(new, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()


_OPEN: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}


def _identity(folder: Path) -> str:
    """The run's own id, made once: a run that replaces another in the same folder is another run."""
    path = folder / IDENTITY
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8")).get("id")
        if isinstance(found, str) and found.isalnum() and len(found) <= 32:
            return found
    made = uuid.uuid4().hex[:8]
    write_atomically(path, json.dumps({"id": made}) + "\n")
    return made


def _last_logged_steps(folder: Path) -> dict[str, int]:
    """Of each group of numbers, by what stands before the last / of their names."""
    rows = [("train", row["step"]) for row in read_log(folder / LOSSES)]
    rows += [(f"val/{row.get('what')}", row["step"]) for row in read_log(folder / VALIDATIONS)]
    return {group: max(step for name, step in rows if name == group) for group, _ in rows}


def _as_table(config: Mapping[str, Any]) -> str:
    """Markdown, as TensorBoard shows texts."""
    rows = "".join(f"| {key} | {str(value).replace('|', ' ')} |\n" for key, value in config.items())
    return f"| setting | value |\n| --- | --- |\n{rows}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
