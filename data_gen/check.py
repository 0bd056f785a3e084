"""Is a data set true? Every file is hashed, every text parsed and replayed, every fact recomputed from its scenario.

Three kinds of proof, from the outside in:
  files    each file is there, has the manifest's sha256, and no file is there that the manifest does not know
  text     the prompt, the trace text and the waypoints say what the sample's fields say; the text alone, parsed back,
           replays to the label's progress; each stated rule gives its stated result; what it says of turns holds; the
           recorded terms of every proposal make its recorded score and rank
  world    the scenario is loaded or generated again, the planner drives again, the cameras draw again: every number and
           every picture must come out as stored. Images that a log's own cameras took are read from the log again

A text is held to the motion that it explains. Where that is not what the waypoints are of (label human), the waypoints are
held to the log, and how far the two are apart is told, not judged.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_gen.generate import GenerateConfig, label_off_m, split_of
from data_gen.sample import LEFT_OUT, Made, explained_future, image_source, samples_of
from nsdrive.cameras.rig import make_rig
from nsdrive.counted import counted
from nsdrive.dataset import MANIFEST, SPLITS, Dataset, Sample, sha256_of
from nsdrive.parallel import in_order
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.source import ScenarioError
from nsdrive.trace.record import from_json, to_json
from nsdrive.trace.replay import arithmetic_errors, choice_errors, lateral_errors, progress_errors, replay
from nsdrive.trace.rounding import rounded
from nsdrive.trace.text import parse, render
from nsdrive.vla.prompt import TICKS_PER_WAYPOINT, build_prompt, parse_answer, render_answer
from nsdrive.world.rules import IdmParameters
from nsdrive.world.types import Planner

AT_3_S = 6  # steps of 0.5 s
SAME_NUMBER = 0.011  # numbers are printed with two decimals; another machine's rounding may differ in the last
SAME_PIXELS = 3.0  # grey levels, mean over an image: another libjpeg may round otherwise


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was looked at and what was wrong. Each problem is one line that says where.

    label_off_m: for each sample whose text explains another motion than its waypoints, how far they are apart after 5 s.
    """

    samples: int
    images: int
    recomputed: int
    worst_replay_m: float
    problems: tuple[str, ...]
    label_off_m: tuple[float, ...] = ()

    def summary(self) -> str:
        verdict = "every one is true" if not self.problems else counted(len(self.problems), "problem")
        apart = ""
        if self.label_off_m:
            median, most = np.median(self.label_off_m), max(self.label_off_m)
            apart = f"; the human is {median:.2f} m from the teacher at 5 s (median; at most {most:.2f} m)"
        return (
            f"{counted(self.samples, 'sample')}, {counted(self.images, 'image')}, "
            f"{counted(self.recomputed, 'sample')} recomputed from their scenarios: "
            f"{verdict} (largest replay error at 3 s: {self.worst_replay_m:.3f} m{apart})"
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One scenario's samples, for one worker."""

    item: str
    stored: tuple[tuple[str, str, Sample], ...]  # (file:line, split, sample)
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


def check(
    dataset: Dataset,
    config: GenerateConfig,
    make_planner: Callable[[], Planner],
    *,
    source_path: Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checked:
    """Check everything; never raises for a fault of the data. source_path: where a log source's files lie now."""
    if source_path is not None:
        config = _moved(config, source_path)
    if "keep_bad_driving" not in dataset.manifest["config"].get("samples", {}):  # made before there was a choice
        config = replace(config, samples=replace(config.samples, keep_bad_driving=True))
    problems = list(check_files(dataset))
    groups: dict[str, list[tuple[str, str, Sample]]] = defaultdict(list)
    worst, n_samples, n_images = 0.0, 0, 0
    seen_ids: set[str] = set()
    off_m: list[float] = []
    for split in SPLITS:
        for where, sample in _readable(dataset, split, problems):
            n_samples += 1
            n_images += len(sample.images)
            if sample.sample_id in seen_ids:
                problems.append(f"{where} {sample.sample_id}: this id occurs twice")
            seen_ids.add(sample.sample_id)
            found, error_m = check_text(sample)
            worst = max(worst, error_m)
            problems += [f"{where} {sample.sample_id}: {line}" for line in found]
            if sample.extra.get("label") == "human" and not math.isinf(error_m):
                off_m.append(float(label_off_m(sample)[-1]))
            groups[str(sample.extra.get("item", ""))].append((where, split, sample))
    if n_samples != dataset.manifest.get("samples"):
        problems.append(f"{MANIFEST}: counts {dataset.manifest.get('samples')} samples, the shards hold {n_samples}")
    jobs = [
        Job(item=item, stored=tuple(rows), folder=dataset.folder, config=config, make_planner=make_planner)
        for item, rows in sorted(groups.items())
    ]
    recomputed = unseen = 0
    for done, again in enumerate(in_order(recompute, jobs, workers), start=1):
        recomputed += again.samples
        unseen += again.unseen
        problems += again.problems
        progress(done, len(jobs))
    if unseen:
        problems.append(
            f"{unseen} samples show what the log's own cameras saw, and those images are not where the log's source looks for "
            "them, so these samples cannot be recomputed"
        )
    return Checked(
        samples=n_samples,
        images=n_images,
        recomputed=recomputed,
        worst_replay_m=worst,
        problems=tuple(problems),
        label_off_m=tuple(off_m),
    )


def _moved(config: GenerateConfig, source_path: Path) -> GenerateConfig:
    """The settings with the log's files at a new place; what lay beside them and is gone is looked for as if not given."""
    settings = config.scenarios.config
    if not hasattr(settings, "path"):
        raise ValueError(f"--source is for logs; the source '{config.scenarios.name}' generates its scenarios")
    folders = {name: getattr(settings, name, None) for name in ("maps_path", "sensor_path")}
    gone = {name: None for name, path in folders.items() if path is not None and not Path(path).expanduser().exists()}
    moved = replace(settings, path=str(source_path), **gone)
    return replace(config, scenarios=replace(config.scenarios, config=moved))


def check_files(dataset: Dataset) -> Iterator[str]:
    """Files that are missing, changed, or not in the manifest."""
    files: Mapping[str, str] = dataset.manifest["files"]
    for name, expected in files.items():
        try:
            path = dataset.image_path(name)
        except ValueError as error:
            yield f"{MANIFEST}: {error}"
            continue
        if not path.is_file():
            yield f"{name}: is gone"
        elif sha256_of(path) != expected:
            yield f"{name}: its sha256 is not the one in {MANIFEST}"
    known = set(files) | {MANIFEST}
    for path in sorted(dataset.folder.rglob("*")):
        name = path.relative_to(dataset.folder).as_posix()
        if path.is_file() and name not in known:
            yield f"{name}: is not in {MANIFEST}"


def check_text(sample: Sample) -> tuple[list[str], float]:
    """What is wrong with one sample's prompt, text and label, from the sample alone; and its replay error at 3 s [m]."""
    problems: list[str] = []
    cameras = [Path(image).stem for image in sample.images]
    try:
        asked = build_prompt(
            cameras=cameras,
            ego_history=sample.ego_history,
            command=sample.command,
            speed_limit_mps=sample.speed_limit_mps,
            level=sample.trace_level,
        )
        trace = from_json(sample.trace)
        said = render(trace, sample.trace_level)
        explained = explained_future(sample)
    except (ValueError, KeyError, TypeError) as error:
        return [f"its fields cannot be read: {error}"], math.inf
    if asked != sample.prompt:
        problems.append(f"the prompt does not say what the fields say: {_first_difference(asked, sample.prompt)}")
    label = sample.future[TICKS_PER_WAYPOINT::TICKS_PER_WAYPOINT, :2]
    if label.shape != (10, 2) or np.abs(label - sample.waypoints_ego_m).max() > SAME_NUMBER:
        problems.append("waypoints_ego_m is not the future at 0.5 s steps")
    if sample.answer != render_answer(said, sample.waypoints_ego_m):
        problems.append(
            "the answer does not say what the trace and the waypoints say: "
            + _first_difference(render_answer(said, sample.waypoints_ego_m), sample.answer)
        )
    problems += choice_errors(trace)
    if sample.trace_level == "none":
        return problems, 0.0
    answer = parse_answer(sample.answer)
    try:
        read = parse(answer.reasoning or "")
    except ValueError as error:
        return [*problems, f"the text does not parse: {error}"], math.inf
    if read != rounded(trace, sample.trace_level):
        at = next(difference(to_json(rounded(trace, sample.trace_level)), to_json(read), tolerance=0.0), "?")
        problems.append(f"the text, parsed back, is not the trace: {at}")
    driven = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(explained[:, :2], axis=0), axis=1))])
    off_m = abs(replay(read).progress_m[AT_3_S] - driven[AT_3_S * TICKS_PER_WAYPOINT])
    problems += progress_errors(read, explained[:, :2])
    problems += lateral_errors(read, explained[:, :3])
    return problems, float(off_m)


def recompute(job: Job) -> Recomputed:
    """Make a scenario's samples again and compare the stored ones with them."""
    config = job.config
    recorded = [sample for _, _, sample in job.stored if image_source(sample) == "recorded"]
    drawn_at = {sample.anchor.get("tick", -1) for _, _, sample in job.stored if image_source(sample) != "recorded"}
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
                drawn_at=drawn_at,
            )
        )
    except (ScenarioError, ValueError, OSError) as error:
        return Recomputed(samples=0, unseen=0, problems=(f"scenario {job.item}: cannot be recomputed: {error}",))
    made = {each.sample.sample_id: each for each in found if isinstance(each, Made)}
    left_out = {(each.tick, each.edit): each.reason for each in found if not isinstance(each, Made)}
    problems: list[str] = []
    unseen = 0
    parameters = config.planner.config
    for where, split, sample in job.stored:
        at = f"{where} {sample.sample_id}"
        again = made.pop(sample.sample_id, None)
        if again is None:
            edit = sample.sample_id.partition("+")[2] or None
            reason = left_out.get((int(sample.anchor.get("tick", -1)), edit))
            why = "the scenario yields no such sample" if reason is None else f"is to be left out: {LEFT_OUT[reason]}"
            problems.append(f"{at}: {why}")
            continue
        if split != split_of(scenario.split_key, config):
            problems.append(f"{at}: belongs to {split_of(scenario.split_key, config)}, not {split}")
        if isinstance(parameters, IdmParameters):
            wrong = arithmetic_errors(from_json(sample.trace), parameters)
            problems += [f"{at}: {line}" for line in wrong]
        if image_source(sample) == "recorded" and image_source(again.sample) != "recorded":
            unseen += 1
            continue
        fact = next(difference(again.sample.to_row(), sample.to_row(), tolerance=SAME_NUMBER), None)
        if fact is not None:
            problems.append(f"{at}: recomputed otherwise: {fact}")
        problems += [f"{at}: {line}" for line in _pictures(again, job.folder)]
    if config.samples.images == "recorded":  # an anchor without recorded images made no sample
        made = {name: each for name, each in made.items() if image_source(each.sample) == "recorded"}
    problems += [f"scenario {job.item}: the sample {sample_id} is missing" for sample_id in made]
    return Recomputed(samples=len(job.stored) - unseen, unseen=unseen, problems=tuple(problems))


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


def _readable(dataset: Dataset, split: str, problems: list[str]) -> Iterator[tuple[str, Sample]]:
    rows = dataset.rows(split)
    while True:
        try:
            where, row = next(rows)
        except StopIteration:
            return
        except (ValueError, OSError) as error:
            problems.append(str(error))
            return
        try:
            yield where, Sample.from_row(row)
        except ValueError as error:
            problems.append(f"{where}: {error}")


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


def _first_difference(expected: str, found: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    start = max(0, at - 20)
    return f"...{found[start : at + 20]!r}, expected ...{expected[start : at + 20]!r}"
