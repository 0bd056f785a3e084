"""A scenario's samples made once more, and how the stored ones differ from them.

    recompute(Job(item="red_light:0", stored=stored, ...)).problems  # "train-00000.jsonl:3 syn-...-0020: recomputed otherwise: ..."

A fault of a stored sample is a line, never an error that ends the work on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_gen.generate import GenerateConfig, split_of
from data_gen.sample import LEFT_OUT, Made, image_source, samples_of
from nsdrive.cameras.rig import make_rig
from nsdrive.dataset import Line, Sample
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.source import ScenarioError
from nsdrive.trace.record import from_json
from nsdrive.trace.replay import arithmetic_errors
from nsdrive.world.rules import IdmParameters
from nsdrive.world.types import Planner

SAME_NUMBER = 0.011  # numbers are printed with two decimals; another machine's rounding may differ in the last
SAME_PIXELS = 3.0  # grey levels, mean over an image: another libjpeg may round otherwise


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a sample lies, to be read again by who needs it: all samples of a data set need not fit into memory."""

    sample_id: str
    split: str
    shard: Path
    number: int  # of the line, from 1
    start: int
    length: int

    @staticmethod
    def of(line: Line, sample_id: str, split: str) -> Stored:
        return Stored(
            sample_id=sample_id,
            split=split,
            shard=line.shard,
            number=line.number,
            start=line.start,
            length=len(line.data),
        )

    @property
    def at(self) -> str:
        return f"{self.shard.name}:{self.number} {self.sample_id}"

    def read(self) -> Sample:
        with self.shard.open("rb") as file:
            file.seek(self.start)
            return Line(shard=self.shard, number=self.number, start=self.start, data=file.read(self.length)).sample()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One scenario's samples, for one worker."""

    item: str
    stored: tuple[Stored, ...]
    folder: Path
    config: GenerateConfig
    make_planner: Callable[[], Planner]


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """What came of one scenario. samples: how many were made again and compared; unseen: of how many the log's own images are
    not there to compare with; problems: how the stored ones differ."""

    samples: int
    unseen: int
    problems: tuple[str, ...]


def recompute(job: Job) -> Recomputed:
    """Make a scenario's samples again and compare the stored ones with them."""
    config = job.config
    problems: list[str] = []
    stored: list[tuple[Stored, Sample, int]] = []  # with the tick of its anchor
    for one in job.stored:
        try:
            sample = one.read()
            stored.append((one, sample, int(sample.anchor.get("tick", -1))))
        except Exception as error:
            problems.append(unread(one.at, error))
    recorded = any(image_source(sample) == "recorded" for _, sample, _ in stored)
    try:
        source = open_source(config.scenarios.name, config.scenarios.config)
        scenario = source.load(job.item)
        rig = make_rig(config.rig, width_px=config.image_width_px, height_px=config.image_height_px)
        found = list(
            samples_of(
                scenario,
                job.make_planner(),
                rig,
                replace(config.samples, images="auto" if recorded else "rendered"),
                item=job.item,
                cameras=source.cameras(job.item) if recorded else (),
                drawn_at={tick for _, sample, tick in stored if image_source(sample) != "recorded"},
            )
        )
    except Exception as error:  # what went wrong in this one scenario alone
        known = isinstance(error, ScenarioError | ValueError | OSError)
        why = str(error) if known else f"{type(error).__name__} {error}"
        return Recomputed(
            samples=0, unseen=0, problems=(*problems, f"scenario {job.item}: cannot be recomputed: {why}")
        )
    made = {each.sample.sample_id: each for each in found if isinstance(each, Made)}
    left_out = {(each.tick, each.edit): each.reason for each in found if not isinstance(each, Made)}
    missing = made.keys() - {one.sample_id for one in job.stored}
    if config.samples.images == "recorded":  # an anchor without recorded images made no sample
        missing = {name for name in missing if image_source(made[name].sample) == "recorded"}
    unseen = 0
    for one, sample, tick in stored:
        again = made.pop(one.sample_id, None)
        if again is None:
            reason = left_out.get((tick, one.sample_id.partition("+")[2] or None))
            why = "the scenario yields no such sample" if reason is None else f"is to be left out: {LEFT_OUT[reason]}"
            problems.append(f"{one.at}: {why}")
            continue
        is_unseen = image_source(sample) == "recorded" and image_source(again.sample) != "recorded"
        unseen += is_unseen
        try:
            belongs = split_of(scenario.split_key, config)
            if one.split != belongs:
                problems.append(f"{one.at}: belongs to {belongs}, not {one.split}")
            for each in _otherwise(sample, again, job, with_images=not is_unseen):
                problems.append(f"{one.at}: {each}")
        except Exception as error:
            problems.append(unread(one.at, error))
    problems += [f"scenario {job.item}: the sample {sample_id} is missing" for sample_id in sorted(missing)]
    return Recomputed(samples=len(stored) - unseen, unseen=unseen, problems=tuple(problems))


def _otherwise(sample: Sample, again: Made, job: Job, *, with_images: bool) -> Iterator[str]:
    """How a stored sample differs from the one that was made again."""
    parameters = job.config.planner.config
    if isinstance(parameters, IdmParameters):
        yield from arithmetic_errors(from_json(sample.trace), parameters)
    if not with_images:
        return
    fact = next(difference(again.sample.to_row(), sample.to_row(), tolerance=SAME_NUMBER), None)
    if fact is not None:
        yield f"recomputed otherwise: {fact}"
    yield from _pictures(again, job.folder)


def _pictures(again: Made, folder: Path) -> Iterator[str]:
    for name, expected in again.images.items():
        path = folder / name
        if not path.is_file():
            continue  # reported with the files
        data = path.read_bytes()
        if data == expected:
            continue
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        drawn = cv2.imdecode(np.frombuffer(expected, np.uint8), cv2.IMREAD_COLOR)
        assert drawn is not None, "it was just encoded"
        if found is None:
            yield f"{name} is not a readable image"
        elif found.shape != drawn.shape:
            yield f"{name} is {found.shape[1]}x{found.shape[0]}, expected {drawn.shape[1]}x{drawn.shape[0]}"
        elif (off := float(np.abs(found.astype(float) - drawn).mean())) > SAME_PIXELS:
            yield f"{name} does not show the scene (mean difference {off:.1f} grey levels)"


def unread(at: str, error: Exception) -> str:
    """The line that tells of a sample that cannot be read, at `at`."""
    return f"{at}: cannot be read: {type(error).__name__} {error}"[:300]


def difference(expected: Any, found: Any, *, tolerance: float, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, numbers by more than `tolerance`. Long strings: numbers inside may differ as well."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(set(expected) | set(found), key=str):
            if key not in expected or key not in found:
                yield f"{path}{key} is {'missing' if key in expected else 'not expected'}"
            else:
                yield from difference(expected[key], found[key], tolerance=tolerance, path=f"{path}{key}.")
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(expected) != len(found):
            yield f"{path[:-1]} has {len(found)} entries, expected {len(expected)}"
        for i, (e, f) in enumerate(zip(expected, found, strict=False)):
            yield from difference(e, f, tolerance=tolerance, path=f"{path}{i}.")
    elif _is_number(expected) and _is_number(found):
        if not abs(expected - found) <= tolerance:
            yield f"{path[:-1]} is {found}, expected {expected}"
    elif expected != found and not (
        path.startswith("messages") and tolerance > 0
    ):  # texts were held to the fields before
        yield f"{path[:-1]} is {found!r}, expected {expected!r}"[:300]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
