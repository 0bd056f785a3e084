"""Scenarios x planner -> a dataset folder: sharded, resumable, the same bytes for one worker or many.

The scenarios of a source are cut into chunks. A chunk is one unit of work: whoever makes it writes its images, its
shards (one per split that occurs) and, last, its note in `.chunks/`. A kill loses at most the chunks in the making;
`--resume` makes exactly those. When every chunk has its note, the card and the manifest are written, the manifest last.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from data_gen.card import write_card
from data_gen.labels import NoRecordingError
from data_gen.pairs import kind_of
from data_gen.sample import NO_IMAGES, Made, SampleConfig, explained_future, image_source, samples_of
from data_gen.teacher import NoDecisionError, Teacher
from nsdrive import __version__
from nsdrive.cameras.rig import make_rig
from nsdrive.config import to_plain
from nsdrive.counted import counted
from nsdrive.dataset import (
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    Sample,
    json_line,
    sha256_of,
    write_atomically,
)
from nsdrive.output_folder import claim_folder, settle
from nsdrive.parallel import check_workers, in_order
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.source import ScenarioError, checksum
from nsdrive.vla.prompt import TICKS_PER_WAYPOINT
from nsdrive.world.types import INTERVAL_S, FloatArray, Planner

CHUNKS = ".chunks"
NEARLY_SAME_S = 0.5  # chosen by us: two samples of one log that are nearer in time show much the same


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Which scenarios, who drives, what is seen and said."""

    scenarios: Any = "synthetic"  # a source and its settings, see nsdrive/scenarios
    planner: Any = "idm"  # a planner and its settings, see planners/
    rig: str = "3"
    image_width_px: int = 640
    image_height_px: int = 360
    samples: SampleConfig = field(default_factory=SampleConfig)
    train_share: float = 0.8  # splits are by scenario (map and seed, or log), never by sample
    val_share: float = 0.1
    scenarios_per_chunk: int = 8

    def __post_init__(self) -> None:
        if self.train_share < 0 or self.val_share < 0 or self.train_share + self.val_share > 1:
            raise ValueError("train_share and val_share must be at least 0 and add up to at most 1")
        if self.scenarios_per_chunk < 1:
            raise ValueError(f"scenarios_per_chunk must be at least 1, got {self.scenarios_per_chunk}")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One unit of work, all that a worker process needs."""

    number: int
    items: tuple[str, ...]
    config: GenerateConfig
    make_planner: Callable[[], Planner]
    out: Path


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What came of it: samples written, scenarios that failed, each with its line, and anchors left out, by reason."""

    folder: Path
    n_samples: int
    failures: tuple[str, ...]
    left_out: Mapping[str, int]
    n_edited: int | None = None  # of the samples, those of edited scenes; None where none were asked for

    def summary(self) -> str:
        said = counted(self.n_samples, "sample")
        if self.n_edited is not None:
            left_out = any(reason.startswith("after_") for reason in self.left_out)
            none = "" if self.n_edited or left_out else ": no edit of samples.edits applies anywhere"
            said += f", {self.n_edited} of them of edited scenes{none}"
        said += f", {counted(len(self.failures), 'scenario')} failed"
        counts = ", ".join(f"{n} {reason}" for reason, n in self.left_out.items())
        return f"{said}, left out: {counts}" if counts else said


def generate(
    config: GenerateConfig,
    make_planner: Callable[[], Planner],
    *,
    out: Path,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Generated:
    """Make the dataset folder `out`. `make_planner` must be picklable where workers > 1; `progress(done, total)` counts scenarios.

    Raises ValueError where the source is unusable, `out` is taken, or --resume meets a folder made with other settings.
    """
    check_workers(workers)
    source = open_source(config.scenarios.name, config.scenarios.config)
    items = list(source.items())
    if not items:
        raise ValueError(f"The source '{source.name}' holds no scenarios: nothing to generate")
    claim_folder(out, resume=resume, overwrite=overwrite, marker="config.json")
    _claim_config(out, config, items)
    if (out / MANIFEST).is_file():
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        shutil.rmtree(out / CHUNKS, ignore_errors=True)
        progress(len(items), len(items))
        return _generated(out, manifest)
    size = config.scenarios_per_chunk
    chunks = [
        Chunk(number=k, items=tuple(items[i : i + size]), config=config, make_planner=make_planner, out=out)
        for k, i in enumerate(range(0, len(items), size))
    ]
    done = 0
    for finished in in_order(make_chunk, chunks, workers):
        done += len(finished.items)
        progress(done, len(items))
    manifest = _finish(out, config, source.name, source.licence, len(chunks))
    return _generated(out, manifest)


def split_of(split_key: str, config: GenerateConfig) -> str:
    """train, val or test, from a hash of the scenario's key alone: stable when a data set grows."""
    share = zlib.crc32(f"split:{split_key}".encode()) / 2**32
    if share < config.train_share:
        return "train"
    return "val" if share < config.train_share + config.val_share else "test"


def make_chunk(chunk: Chunk) -> Chunk:
    """Write one chunk's images and shards, then its note. Does nothing where the note exists."""
    note = chunk.out / CHUNKS / f"{chunk.number:05d}.json"
    if note.is_file():
        return chunk
    source = open_source(chunk.config.scenarios.name, chunk.config.scenarios.config)
    rig = make_rig(chunk.config.rig, width_px=chunk.config.image_width_px, height_px=chunk.config.image_height_px)
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    files: dict[str, str] = {}
    failures: list[str] = []
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    taken: list[tuple[str, int]] = []
    off_m: list[list[float]] = []
    samples = chunk.config.samples
    for item in chunk.items:
        try:
            scenario = source.load(item)
            cameras = () if samples.images == "rendered" else source.cameras(item)
            teacher = Teacher(chunk.make_planner())
            found = list(samples_of(scenario, teacher, rig, samples, item=item, cameras=cameras))
        except (NoDecisionError, NoRecordingError):  # no scenario will be any better
            raise
        except ScenarioError as error:
            failures.append(f"{item}: {error}")
            continue
        except (ValueError, shapely.GEOSException) as error:  # what went wrong in this one scenario alone
            failures.append(f"{item}: {error}")
            continue
        made = [each for each in found if isinstance(each, Made)]
        reasons = [each.reason for each in found if not isinstance(each, Made)]
        left_out.update(reasons)
        if not found:
            failures.append(f"{item}: no tick has two seconds of past and five of future")
        elif not made and NO_IMAGES in reasons:
            failures.append(f"{item}: samples.images=recorded, but at none of its anchors all cameras have an image")
        split = split_of(scenario.split_key, chunk.config)
        for each in made:
            for name, data in each.images.items():
                write_atomically(chunk.out / name, data, sync=False)
                files[name] = hashlib.sha256(data).hexdigest()
            sample = each.sample
            lines[split].append(json_line(sample.to_row()))
            counts.update(counted_as(sample, split))
            if "edit" not in sample.extra:
                time_us = scenario.clock_us + round(sample.anchor["tick"] * INTERVAL_S * 1e6)
                taken.append((scenario.split_key, time_us))
            if samples.label == "human":
                off_m.append([round(float(v), 3) for v in label_off_m(sample)])
    for split, rows in lines.items():
        if rows:
            name = f"{split}-{chunk.number:05d}.jsonl"
            write_atomically(chunk.out / name, "".join(rows))
            files[name] = sha256_of(chunk.out / name)
    summary = {
        "scenarios": len(chunk.items),
        "counts": dict(counts),
        "left_out": dict(left_out),
        "taken": taken,
        "label_off_m": off_m,
        "failures": failures,
        "files": files,
    }
    write_atomically(note, json.dumps(summary, indent=1, sort_keys=True))
    return chunk


def counted_as(sample: Sample, split: str) -> list[str]:
    """What of the manifest's counts a sample adds one to, as "group/name"."""
    keys = [
        f"split/{split}",
        f"planner/{sample.planner}",
        f"rule/{sample.binding_rule}",
        f"scenario_type/{sample.scenario_type}",
        f"images/{image_source(sample)}",
        f"label/{sample.extra.get('label', 'rollout')}",
    ]
    about = sample.extra.get("edit")
    if about is not None:
        keys.append(f"edit/{about['sort']}")
        keys.append(f"edit_{kind_of(about['moved_m'], about['moved_at_3s_m'])}/{about['sort']}")
    return keys


def grouped(counts: Counter[str]) -> dict[str, dict[str, int]]:
    """The manifest's counts: group -> name -> samples."""
    groups: dict[str, dict[str, int]] = {"split": dict.fromkeys(SPLITS, 0)}
    for key, value in sorted(counts.items()):
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = value
    return groups


def label_off_m(sample: Sample) -> FloatArray:
    """(10,): how far each waypoint is from where the motion that the text explains is at that time."""
    explained = explained_future(sample)[TICKS_PER_WAYPOINT::TICKS_PER_WAYPOINT, :2]
    return np.asarray(np.linalg.norm(explained - sample.waypoints_ego_m, axis=1))


def nearly_same(taken: Sequence[tuple[str, int]]) -> int:
    """How many samples, (log, time in microseconds), follow another of their log by less than NEARLY_SAME_S."""
    by_log: dict[str, list[int]] = defaultdict(list)
    for log, time_us in taken:
        by_log[log].append(time_us)
    steps = (b - a for times in by_log.values() for a, b in itertools.pairwise(sorted(times)))
    return sum(step < NEARLY_SAME_S * 1e6 for step in steps)


def distribution(off_m: FloatArray) -> dict[str, dict[str, float]]:
    """Of (N, 10) distances between waypoints and the explained motion: mean over 5 s, and at 3 s and 5 s, over the samples."""
    columns = {"mean over 5 s": off_m.mean(axis=1), "at 3 s": off_m[:, 5], "at 5 s": off_m[:, 9]}
    marks = {"median": 50.0, "90 %": 90.0, "99 %": 99.0, "largest": 100.0}
    return {
        name: {mark: round(float(np.percentile(values, q)), 2) for mark, q in marks.items()}
        for name, values in columns.items()
    }


def _claim_config(out: Path, config: GenerateConfig, items: Sequence[str]) -> None:
    """Write config.json, or see that a resumed folder was begun with the same settings, scenarios and code."""
    resolved = {"nsdrive": __version__, "config": to_plain(config), "items": checksum(items)}
    settle(out, "config.json", resolved)


def _finish(out: Path, config: GenerateConfig, source: str, licence: str, n_chunks: int) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    files: dict[str, str] = {"config.json": sha256_of(out / "config.json")}
    failures: list[str] = []
    left_out: Counter[str] = Counter()
    taken: list[tuple[str, int]] = []
    off_m: list[list[float]] = []
    scenarios = 0
    for number in range(n_chunks):
        note = json.loads((out / CHUNKS / f"{number:05d}.json").read_text(encoding="utf-8"))
        counts.update(note["counts"])
        files.update(note["files"])
        failures += note["failures"]
        left_out.update(note["left_out"])
        taken += note["taken"]
        off_m += note["label_off_m"]
        scenarios += note["scenarios"]
    by_group = grouped(counts)
    manifest = {
        "format_version": FORMAT_VERSION,
        "nsdrive": __version__,
        "source": source,
        "licence": licence,
        "config": to_plain(config),
        "scenarios": scenarios,
        "samples": sum(by_group["split"].values()),
        "counts": by_group,
        "left_out": dict(sorted(left_out.items())),  # anchors that make no sample, by reason (see LEFT_OUT)
        "nearly_same": nearly_same(taken),
        **({"label_off_m": distribution(np.array(off_m))} if off_m else {}),
        "failures": failures,
        "files": files,
    }
    write_card(out, manifest)
    for path in sorted(out.glob("README.md")) + sorted((out / "card").glob("*")):
        files[str(path.relative_to(out).as_posix())] = sha256_of(path)
    manifest["files"] = dict(sorted(files.items()))
    write_atomically(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    shutil.rmtree(out / CHUNKS)
    return manifest


def _generated(out: Path, manifest: dict[str, Any]) -> Generated:
    return Generated(
        folder=out,
        n_samples=manifest["samples"],
        failures=tuple(manifest["failures"]),
        left_out=manifest["left_out"],
        n_edited=sum(manifest["counts"].get("edit", {}).values()) if manifest["config"]["samples"]["edits"] else None,
    )
