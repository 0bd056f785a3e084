"""A data set told at another trace level, or seen by fewer of its cameras, without drawing a picture again.

    derive(dataset, out, trace_level="brief")                                        # from the stored traces
    derive(dataset, out, rig="3", config=config, make_planner=make_planner)          # of a data set with rig 8

What comes out is, byte for byte, what `generate` makes with those settings. The level is a matter of the stored trace. Fewer
cameras are not: what no remaining camera sees is hidden, so that objects are named and counted otherwise. So the planner drives
again, and what is seen is the stored `seen` of the cameras that stay. Images are hard links where the file system has them,
else copies. A shard is one unit of work; its note in `.chunks/` is written last, and after all of them the manifest.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.card import write_card
from data_gen.generate import CHUNKS, GenerateConfig
from data_gen.labels import anchored
from data_gen.sample import NO_IMAGES, SampleConfig, told
from data_gen.teacher import Teacher
from nsdrive import __version__
from nsdrive.cameras.rig import CAMERAS_OF_RIG
from nsdrive.config import build, did_you_mean, to_plain
from nsdrive.counted import counted
from nsdrive.dataset import (
    MANIFEST,
    SPLITS,
    Dataset,
    Sample,
    json_line,
    link_or_copy,
    sha256_of,
    write_atomically,
)
from nsdrive.output_folder import claim_folder, refuse_in_each_other, settle
from nsdrive.parallel import check_workers, in_order
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.source import ScenarioError
from nsdrive.trace.record import from_json
from nsdrive.trace.text import render
from nsdrive.vla.prompt import TASK, build_prompt, render_answer
from nsdrive.world.types import Planner, Scenario

SOURCE = "source.json"  # in .chunks/: which data set an unfinished folder is made from
# so the failure of a scenario begins whose log lacks images (`data_gen.generate`)
LACKING = "samples.images=recorded, but"
SAME_M = 0.011  # as in `check`: another machine's rounding may differ in the last of two decimals


@dataclass(frozen=True, kw_only=True)
class Derived:
    """What came of it."""

    folder: Path
    n_samples: int
    trace_level: str
    rig: str

    def summary(self) -> str:
        return f"{counted(self.n_samples, 'sample')}, trace level {self.trace_level}, rig {self.rig}"


@dataclass(frozen=True, kw_only=True)
class Fewer:
    """What fewer cameras need: the rig that stays, the settings that the data set was made with, and who drove."""

    rig: str
    config: GenerateConfig
    make_planner: Callable[[], Planner]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One shard, all that a worker process needs."""

    shard: str
    split: str
    dataset: Dataset
    out: Path
    trace_level: str
    fewer: Fewer | None


def derive(
    dataset: Dataset,
    out: Path,
    *,
    trace_level: str | None = None,
    rig: str | None = None,
    config: GenerateConfig | None = None,
    make_planner: Callable[[], Planner] | None = None,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Derived:
    """Make the dataset folder `out` of another's samples. `progress(done, total)` counts shards.

    rig: needs `config`, the settings that the data set was made with, and `make_planner`, picklable where workers > 1. Raises
    ValueError where nothing would change, where the new samples cannot be had from the old ones, or where `out` is taken.
    """
    was = dataset.manifest.get("config")
    known = {"samples", "counts", "left_out", "failures"} <= dataset.manifest.keys()
    if not known or not isinstance(was, Mapping) or not isinstance(was.get("samples"), Mapping) or "rig" not in was:
        raise ValueError(
            f"{dataset.folder} was not made by `nsdrive generate`: its manifest does not say rig and level"
        )
    level, cameras = trace_level or str(was["samples"].get("trace_level")), rig or str(was["rig"])
    rig = None if cameras == str(was["rig"]) else cameras
    _refuse(dataset, out, level, rig)
    fewer = None
    if rig is not None:
        assert config is not None, "another rig needs the settings"
        assert make_planner is not None, "another rig needs the planner to drive again"
        fewer = Fewer(rig=rig, config=config, make_planner=make_planner)
    settings = {**was, "rig": cameras, "samples": {**was["samples"], "trace_level": level}}
    check_workers(workers)
    claim_folder(out, resume=resume, overwrite=overwrite, marker="config.json")
    _claim(out, dataset, settings)
    works = [
        Work(shard=shard.name, split=split, dataset=dataset, out=out, trace_level=level, fewer=fewer)
        for split in SPLITS
        for shard in dataset.shards(split)
    ]
    if not (out / MANIFEST).is_file():
        for done, _ in enumerate(in_order(derive_shard, works, workers), start=1):
            progress(done, len(works))
        _finish(out, dataset, settings, works)
    shutil.rmtree(out / CHUNKS, ignore_errors=True)
    return Derived(folder=out, n_samples=int(dataset.manifest["samples"]), trace_level=level, rig=cameras)


def derive_shard(work: Work) -> str:
    """Write one shard and link its images, then its note. Does nothing where the note exists."""
    note = work.out / CHUNKS / f"{work.shard}.json"
    if note.is_file():
        return work.shard
    shard = next(path for path in work.dataset.shards(work.split) if path.name == work.shard)
    one = replace(work.dataset, manifest={**work.dataset.manifest, "files": {work.shard: ""}})
    if not shard.is_file():
        raise FileNotFoundError(f"{shard} is named in the manifest but is not there")
    samples = list(one.samples(work.split))
    fewer, level = work.fewer, work.trace_level
    made = [retold(sample, level) for sample in samples] if fewer is None else list(_reseen(samples, fewer, work))
    hashes: Mapping[str, str] = work.dataset.manifest["files"]
    files: dict[str, str] = {}
    for sample in made:
        for name in sample.images:
            if name not in hashes:
                raise ValueError(f"{work.shard}: the image {name} of {sample.sample_id} is not in the manifest")
            link_or_copy(work.dataset.image_path(name), work.out / name)
            files[name] = hashes[name]
    write_atomically(work.out / work.shard, "".join(json_line(sample.to_row()) for sample in made))
    files[work.shard] = sha256_of(work.out / work.shard)
    write_atomically(note, json.dumps(files, indent=1, sort_keys=True))
    return work.shard


def retold(sample: Sample, level: str) -> Sample:
    """The sample at another trace level: its prompt asks for it, its answer tells the stored trace so. ValueError."""
    try:
        text = render(from_json(sample.trace), level)
        prompt = build_prompt(
            cameras=[Path(image).stem for image in sample.images],
            ego_history=sample.ego_history,
            command=sample.command,
            speed_limit_mps=sample.speed_limit_mps,
            level=level,
        )
    except Exception as error:  # whatever a stranger wrote there
        raise ValueError(
            f"{sample.sample_id}: its stored trace or history cannot be read ({type(error).__name__} {error}); was it made "
            "by generate?"
        ) from None
    answer = render_answer(text, sample.waypoints_ego_m)
    return replace(sample, trace_level=level, prompt=prompt, answer=answer)


# ---- fewer cameras ------------------------------------------------------------------------------------------------------


def _reseen(samples: Sequence[Sample], fewer: Fewer, work: Work) -> Iterator[Sample]:
    """The samples as fewer cameras see them, in the same order."""
    source = open_source(fewer.config.scenarios.name, fewer.config.scenarios.config)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[str(sample.extra.get("item", ""))].append(sample)
    made: dict[str, Sample] = {}
    for item, group in groups.items():
        try:
            scenario = source.load(item)
            made |= {sample.sample_id: sample for sample in _of_scenario(scenario, group, fewer, work.trace_level)}
        except (ScenarioError, ValueError, LookupError, TypeError, AttributeError) as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{work.shard}, scenario {item}: cannot be derived: {why}") from None
    for sample in samples:
        yield made[sample.sample_id]


def _of_scenario(scenario: Scenario, samples: Sequence[Sample], fewer: Fewer, level: str) -> Iterator[Sample]:
    config = build(SampleConfig, {**to_plain(fewer.config.samples), "trace_level": level})
    at_tick = {int(sample.anchor["tick"]): sample for sample in samples}
    if len(at_tick) < len(samples):
        raise ValueError("two of its samples are of the same moment")
    for at in anchored(scenario, Teacher(fewer.make_planner()), config, sorted(at_tick)):
        was = at_tick.pop(at.tick)
        cameras = CAMERAS_OF_RIG[fewer.rig]
        images = {Path(image).stem: image for image in was.images}
        stored = {camera["name"]: camera for camera in was.rig["cameras"]}
        if any(name not in seen for name in cameras for seen in (images, stored, was.extra["seen"])):
            raise ValueError(f"{was.sample_id} lacks a camera of rig {fewer.rig}")
        now, _ = told(
            at,
            config,
            images=tuple(images[name] for name in cameras),
            rig={"name": fewer.rig, "cameras": [stored[name] for name in cameras]},
            seen={name: was.extra["seen"][name] for name in cameras},
            image_source=str(was.extra.get("image_source", "rendered")),
            item=str(was.extra["item"]),
        )
        if now.sample_id != was.sample_id or not np.allclose(now.future, was.future, rtol=0.0, atol=SAME_M):
            raise ValueError(
                f"{was.sample_id}: the planner drives otherwise now than when it was stored; `nsdrive check` says how"
            )
        yield now
    if at_tick:
        raise ValueError(f"the planner no longer comes to {', '.join(s.sample_id for s in at_tick.values())}")


# ---- the folder ---------------------------------------------------------------------------------------------------------


def _refuse(dataset: Dataset, out: Path, level: str, rig: str | None) -> None:
    was = dataset.manifest["config"]
    if level not in TASK:
        raise ValueError(f"No trace level '{level}'. {did_you_mean(level, TASK)}")
    if rig is None and level == was["samples"].get("trace_level"):
        raise ValueError(f"{dataset.folder} has trace level {level} and rig {was['rig']}: there is nothing to derive")
    refuse_in_each_other(dataset.folder, out)
    if rig is None:
        return
    if rig not in CAMERAS_OF_RIG:
        raise ValueError(f"No camera rig '{rig}'. {did_you_mean(rig, CAMERAS_OF_RIG)}")
    lacking = [name for name in CAMERAS_OF_RIG[rig] if name not in CAMERAS_OF_RIG.get(str(was["rig"]), ())]
    if lacking:
        raise ValueError(
            f"{dataset.folder} has rig {was['rig']}, which lacks {', '.join(lacking)}: generate it with rig={rig}"
        )
    if was["samples"].get("edits"):
        raise ValueError(
            "Which edits a data set of pairs has depends on what its cameras see: generate it again with rig=" + rig
        )
    manifest = dataset.manifest
    images = manifest["counts"].get("images", {})
    lost = manifest["left_out"].get(NO_IMAGES) or any(LACKING in line for line in manifest["failures"])
    if lost or (images.get("recorded") and images.get("rendered")):
        raise ValueError(
            f"At some anchors the log lacks an image of rig {was['rig']} that rig {rig} can do without: generate it with rig={rig}"
        )


def _claim(out: Path, dataset: Dataset, settings: Mapping[str, Any]) -> None:
    """Write config.json, or see that a resumed folder was begun with the same settings and from the same data set."""
    try:
        items = json.loads((dataset.folder / "config.json").read_text(encoding="utf-8"))["items"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{dataset.folder}/config.json is not there or not readable: is this a data set?") from None
    settle(out, "config.json", {"nsdrive": __version__, "config": settings, "items": items})
    if not (out / MANIFEST).is_file():
        settle(out, f"{CHUNKS}/{SOURCE}", {"manifest_sha256": sha256_of(dataset.folder / MANIFEST)})


def _finish(out: Path, dataset: Dataset, settings: Mapping[str, Any], works: Sequence[Work]) -> None:
    files = {"config.json": sha256_of(out / "config.json")}
    for work in works:
        files |= json.loads((out / CHUNKS / f"{work.shard}.json").read_text(encoding="utf-8"))
    manifest = {**dataset.manifest, "nsdrive": __version__, "config": settings, "files": files}
    write_card(out, manifest)
    for path in sorted(out.glob("README.md")) + sorted((out / "card").glob("*")):
        files[path.relative_to(out).as_posix()] = sha256_of(path)
    manifest["files"] = dict(sorted(files.items()))
    write_atomically(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
