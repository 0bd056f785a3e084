"""The dataset folder and the predictions file: how samples lie on disk, and safe ways to read and write them.

    DATASET/
        manifest.json        written last: its presence means complete. Counts, sha256 per file, resolved config, seed, version
        train-00000.jsonl    one sample a line (see `Sample`), also val-*.jsonl and test-*.jsonl
        images/...           JPEG files, named in the samples relative to the folder
        README.md            the dataset card

Everything read here may come from a stranger: JSON only, and no path leaves the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from nsdrive.world.types import FloatArray

FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
PACKING = "packing.json"  # of a folder that is being packed: what it is packed from and how
PERCEPTION = "perception"  # kind and trace level of a dataset of short questions about images (`data_gen.perception`)
ONLY_TRAINS = "such a dataset is for `nsdrive train`, as --data or as co_data, and for `nsdrive check`"
READ_BYTES = 1 << 18  # of a shard at once: more does not stay in a core's cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One training example: images + ego history + navigation command -> trace text + future waypoints.

    waypoints_ego_m (10, 2): 0.5 s apart, ego frame at the anchor. future: 51 rows at 10 Hz of x_m, y_m, heading_rad,
    speed_mps, accel_mps2 in the ego frame, the first the anchor itself. ego_history: up to 5 rows, 0.5 s apart, oldest
    first, of t_s, x_m, y_m, vx_mps, vy_mps, ax_mps2, ay_mps2. trace: `nsdrive.trace` JSON; trace_names: the names that
    the text uses -> the scenario's ids. binding_rule: what set the command at the anchor.
    """

    sample_id: str
    scenario_id: str
    scenario_type: str
    planner: str
    trace_level: str
    images: tuple[str, ...]
    prompt: str
    answer: str
    ego_history: tuple[Mapping[str, float], ...]
    waypoints_ego_m: FloatArray
    future: FloatArray
    command: str
    speed_limit_mps: float | None
    binding_rule: str
    trace: Mapping[str, Any]
    trace_names: Mapping[str, str]
    rig: Mapping[str, Any]
    anchor: Mapping[str, Any]  # tick, time_s, pose_global
    unknown: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The line of a shard, as the contract has it: `messages` trainers read it as it is."""
        return {
            "id": self.sample_id,
            "scenario": self.scenario_id,
            "scenario_type": self.scenario_type,
            "planner": self.planner,
            "trace_level": self.trace_level,
            "images": list(self.images),
            "messages": [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}],
            "nsdrive": {
                "ego_history": [dict(h) for h in self.ego_history],
                "waypoints_ego_m": np.round(self.waypoints_ego_m, 4).tolist(),
                "command": self.command,
                "speed_limit_mps": self.speed_limit_mps,
                "binding_rule": self.binding_rule,
                "trace": dict(self.trace),
                "trace_names": dict(self.trace_names),
                "rig": dict(self.rig),
                "anchor": dict(self.anchor),
                "unknown": list(self.unknown),
                "future": np.round(self.future, 4).tolist(),
                **self.extra,
            },
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Sample:
        """The sample of a shard's line. Raises ValueError naming what is missing or misshapen."""
        try:
            if row.get("trace_level") == PERCEPTION:
                raise ValueError(
                    f"sample {str(row['id'])[:80]} is a question about an image, not a drive: {ONLY_TRAINS}"
                )
            more = dict(row["nsdrive"])
            messages = row["messages"]
            if [m["role"] for m in messages] != ["user", "assistant"]:
                raise ValueError("messages must be one user and one assistant turn")
            waypoints = np.array(more.pop("waypoints_ego_m"), dtype=float)
            future = np.array(more.pop("future"), dtype=float)
            if waypoints.shape != (10, 2) or not np.isfinite(waypoints).all():
                raise ValueError(f"waypoints_ego_m must be 10 finite [x, y], got shape {waypoints.shape}")
            if future.ndim != 2 or future.shape[1] != 5 or not np.isfinite(future).all():
                raise ValueError(f"future must be finite rows of 5 numbers, got shape {future.shape}")
            return Sample(
                sample_id=str(row["id"]),
                scenario_id=str(row["scenario"]),
                scenario_type=str(row["scenario_type"]),
                planner=str(row["planner"]),
                trace_level=str(row["trace_level"]),
                images=tuple(str(p) for p in row["images"]),
                prompt=str(messages[0]["content"]),
                answer=str(messages[1]["content"]),
                ego_history=tuple(more.pop("ego_history")),
                waypoints_ego_m=waypoints,
                future=future,
                command=str(more.pop("command")),
                speed_limit_mps=more.pop("speed_limit_mps"),
                binding_rule=str(more.pop("binding_rule")),
                trace=more.pop("trace"),
                trace_names=more.pop("trace_names"),
                rig=more.pop("rig"),
                anchor=more.pop("anchor"),
                unknown=tuple(more.pop("unknown")),
                extra=more,
            )
        except KeyError as error:
            raise ValueError(f"a sample lacks the field {error}") from None
        except (TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"a sample is misshapen: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a shard, not yet read: a reader may take from it only what it needs. start: its first byte in the shard."""

    shard: Path
    number: int
    start: int
    data: bytes

    @property
    def where(self) -> str:
        return f"{self.shard.name}:{self.number}"

    def row(self) -> dict[str, Any]:
        """The row. Raises ValueError naming a line that is none."""
        try:
            row = from_json(self.data)
        except ValueError as error:
            raise ValueError(f"{self.where} is not JSON ({error}); was the file cut off?") from None
        if not isinstance(row, dict):
            raise ValueError(f"{self.where} is not a JSON object")
        return row

    def sample(self) -> Sample:
        try:
            return Sample.from_row(self.row())
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(self.where) else f"{self.where}: {message}") from None


def lines_of(shard: Path) -> Iterator[Line]:
    """Every line of a shard, in order, as bytes."""
    if not shard.is_file():
        raise FileNotFoundError(f"{shard} is named in the manifest but is not there")
    start = 0
    for number, data in enumerate(split_lines(shard), start=1):
        yield Line(shard=shard, number=number, start=start, data=data)
        start += len(data) + 1


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A complete dataset folder."""

    folder: Path
    manifest: Mapping[str, Any]

    def shards(self, split: str) -> list[Path]:
        if split not in SPLITS:
            raise ValueError(f"No split '{split}'. Known: {', '.join(SPLITS)}")
        names = sorted(name for name in self.manifest["files"] if name.startswith(f"{split}-"))
        return [inside(self.folder, name) for name in names]

    def lines(self, split: str) -> Iterator[Line]:
        """Every line of a split, in order, as bytes."""
        for shard in self.shards(split):
            yield from lines_of(shard)

    def rows(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file:line, row) of every sample of a split, in order. Raises ValueError naming a broken line."""
        for line in self.lines(split):
            yield line.where, line.row()

    def samples(self, split: str) -> Iterator[Sample]:
        """Every sample of a split, in order. Raises ValueError naming a broken line."""
        for line in self.lines(split):
            yield line.sample()

    def image_path(self, relative: str) -> Path:
        return inside(self.folder, relative)


def open_dataset(folder: str | Path) -> Dataset:
    """Open a complete dataset. Raises FileNotFoundError or ValueError with what to do where it is absent or unfinished."""
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the dataset's folder")
    if not folder.is_dir():
        raise FileNotFoundError(f"No dataset folder {folder}. Make one: nsdrive generate data/synthetic --out {folder}")
    path = folder / MANIFEST
    if not path.is_file() and (folder / PACKING).is_file():
        raise ValueError(f"{folder} is half packed, to train on: give the dataset that it is packed from")
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {MANIFEST}: it is unfinished, or no dataset. Finish it: the same command with --resume"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error})") from None
    if isinstance(manifest, dict) and manifest.get("kind") == "packed":
        raise ValueError(f"{folder} is packed, to train on: give the dataset that it was packed from")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ValueError(f"{path} is no dataset manifest: it has no table of files")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {manifest.get('format_version')}, this program reads {FORMAT_VERSION}"
        )
    return Dataset(folder=folder, manifest=manifest)


def open_drives(folder: str | Path) -> Dataset:
    """Open a complete dataset of driving samples: one of questions about images is refused."""
    dataset = open_dataset(folder)
    refuse_perception(dataset)
    return dataset


def is_perception(dataset: Dataset) -> bool:
    """Whether it holds questions about images instead of drives."""
    return dataset.manifest.get("kind") == PERCEPTION


def refuse_perception(dataset: Dataset) -> None:
    """ValueError where a dataset holds questions about images and drives are wanted."""
    if is_perception(dataset):
        raise ValueError(f"{dataset.folder} holds questions about images, not drives: {ONLY_TRAINS}")


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, or ValueError if that would leave the folder (absolute, '..', or a link that leads out)."""
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or "\\" in relative or not pure.parts:
        raise ValueError(f"{relative!r} does not stay inside the dataset folder {folder}")
    path = folder / pure
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{relative!r} leads out of the dataset folder {folder}")
    return path


# ---- predictions.jsonl -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """One model answer. waypoints_ego_m (10, 2), or None together with the error that says why."""

    sample_id: str
    text: str
    waypoints_ego_m: FloatArray | None
    error: str | None
    seconds: float

    def to_row(self) -> dict[str, Any]:
        waypoints = None if self.waypoints_ego_m is None else np.round(self.waypoints_ego_m, 4).tolist()
        return {
            "id": self.sample_id,
            "text": self.text,
            "waypoints_ego_m": waypoints,
            "error": self.error,
            "seconds": round(self.seconds, 4),
        }


# ---- safe writing ------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes | str, *, sync: bool = True) -> None:
    """The file appears complete or not at all, whenever the process dies; with `sync` also when the power does."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file at another place: a hard link, else a copy; complete or not there at all. Nothing where it is there already."""
    if target.is_file():
        return
    if not source.is_file():
        raise FileNotFoundError(f"{source} is named in the dataset but is not there: nsdrive check")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileExistsError:  # another process was quicker
        return
    except OSError:  # another file system, or one without links
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, part)
        part.replace(target)


def json_line(row: Mapping[str, Any]) -> str:
    """One line of JSON, the same bytes for the same row everywhere; NaN and infinity are refused."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")) + "\n"


def split_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without their b"\\n", read in blocks; an empty piece after the last b"\\n" is none."""
    begun: list[bytes] = []  # the pieces of a line that goes on in the next block
    with path.open("rb", buffering=0) as file:
        while block := file.read(READ_BYTES):
            *lines, last = block.split(b"\n")
            if lines:
                lines[0] = b"".join([*begun, lines[0]])
                begun = []
                yield from lines
            begun.append(last)
    rest = b"".join(begun)
    if rest:
        yield rest


def from_json(data: bytes) -> Any:
    """What `json.loads` gives, twice as fast where the line is strict JSON. Raises ValueError for anything else."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # NaN, 1e400, half a surrogate pair: JSON for Python, or else its message says what is wrong
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
