"""Is a data set true? Every file is hashed, every text parsed and replayed, every fact recomputed from its scenario.

Three kinds of proof, from the outside in:
  files    each file is there, has the manifest's sha256, and no file is there that the manifest does not know
  text     the prompt, the trace text and the waypoints say what the sample's fields say; the text alone, parsed back,
           replays to the label's progress; each stated rule gives its stated result; what it says of turns holds; the
           recorded terms of every proposal make its recorded score and rank
  world    the scenario is loaded or generated again, the planner drives again, the cameras draw again: every number and
           every picture must come out as stored. Images that a log's own cameras took are read from the log again

A manifest says of how many scenarios it tells; one that has neither a sample nor a recorded failure is one of which every
anchor was left out, and the verdict says how many these are.

A text is held to the motion that it explains. Where that is not what the waypoints are of (label human), the waypoints are
held to the log, and how far the two are apart is told, not judged.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.generate import GenerateConfig, counted_as, grouped, label_off_m
from data_gen.recompute import SAME_NUMBER, Job, Stored, difference, recompute, unread
from data_gen.sample import explained_future
from nsdrive.counted import counted
from nsdrive.dataset import MANIFEST, SPLITS, Dataset, Line, Sample, lines_of, sha256_of
from nsdrive.parallel import in_order
from nsdrive.trace.record import from_json, to_json
from nsdrive.trace.replay import choice_errors, lateral_errors, progress_errors, replay
from nsdrive.trace.rounding import rounded
from nsdrive.trace.text import parse, render
from nsdrive.vla.prompt import TICKS_PER_WAYPOINT, build_prompt, parse_answer, render_answer
from nsdrive.world.types import Planner

AT_3_S = 6  # steps of 0.5 s
TOLD = 3  # chosen by us: of the manifest's counts, so many wrong ones are told


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was looked at and what was wrong. Each problem is one line that says where.

    label_off_m: for each sample whose text explains another motion than its waypoints, how far they are apart after 5 s.
    silent: scenarios without a sample and without a recorded failure.
    """

    samples: int
    images: int
    recomputed: int
    worst_replay_m: float
    problems: tuple[str, ...]
    label_off_m: tuple[float, ...] = ()
    silent: int = 0

    def summary(self) -> str:
        verdict = "every one is true" if not self.problems else counted(len(self.problems), "problem")
        apart = ""
        if self.label_off_m:
            median, most = np.median(self.label_off_m), max(self.label_off_m)
            apart = f"; the human is {median:.2f} m from the teacher at 5 s (median; at most {most:.2f} m)"
        silent = ""
        if self.silent:
            silent = f"; {counted(self.silent, 'scenario')} without a sample, every anchor left out"
        return (
            f"{counted(self.samples, 'sample')}, {counted(self.images, 'image')}, "
            f"{counted(self.recomputed, 'sample')} recomputed from their scenarios: "
            f"{verdict} (largest replay error at 3 s: {self.worst_replay_m:.3f} m{apart}{silent})"
        )


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
    problems = list(check_files(dataset))
    groups: dict[str, list[Stored]] = defaultdict(list)
    worst, n_samples, n_images = 0.0, 0, 0
    seen_ids: set[str] = set()
    counts: Counter[str] = Counter()
    off_m: list[float] = []
    for split, line in _lines(dataset, problems):
        try:
            sample = line.sample()
        except Exception as error:  # whatever a stranger wrote there, the other samples are looked at
            problems.append(str(error) if isinstance(error, ValueError) else unread(line.where, error))
            continue
        stored = Stored.of(line, sample.sample_id, split)
        groups[str(sample.extra.get("item", ""))].append(stored)
        n_samples += 1
        n_images += len(sample.images)
        if sample.sample_id in seen_ids:
            problems.append(f"{stored.at}: this id occurs twice")
        seen_ids.add(sample.sample_id)
        try:
            found, error_m = check_text(sample)
            problems += [f"{stored.at}: {each}" for each in found]
            worst = max(worst, error_m)
            if sample.extra.get("label") == "human" and not math.isinf(error_m):
                off_m.append(float(label_off_m(sample)[-1]))
            counts.update(counted_as(sample, split))
        except Exception as error:
            problems.append(unread(stored.at, error))
    if n_samples != dataset.manifest.get("samples"):
        problems.append(f"{MANIFEST}: counts {dataset.manifest.get('samples')} samples, the shards hold {n_samples}")
    problems += _miscounted(dataset.manifest, counts)
    silent = _silent(dataset.manifest, len(groups), problems)
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
        silent=silent,
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
            found = sha256_of(path) if path.is_file() else None
        except (ValueError, OSError) as error:
            yield f"{MANIFEST}: {error}"
            continue
        if found is None:
            yield f"{name}: is gone"
        elif found != expected:
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


def _lines(dataset: Dataset, problems: list[str]) -> Iterator[tuple[str, Line]]:
    """(split, line) of every line that can be had."""
    for split in SPLITS:
        try:
            for shard in dataset.shards(split):
                for line in lines_of(shard) if shard.is_file() else ():  # one that is gone is reported with the files
                    yield split, line
        except (ValueError, OSError) as error:
            problems.append(f"{split}: {error}")


def _miscounted(manifest: Mapping[str, Any], counts: Counter[str]) -> Iterator[str]:
    """Where the manifest counts other samples than there are; one line."""
    said, held = manifest.get("counts"), grouped(counts)
    wrong = list(difference(said, held, tolerance=0.0)) if isinstance(said, Mapping) else ["there are none"]
    if wrong:
        more = f"; and {len(wrong) - TOLD} more" if len(wrong) > TOLD else ""
        yield f"{MANIFEST}: its counts are not those of the shards: {'; '.join(wrong[:TOLD])}{more}"


def _silent(manifest: Mapping[str, Any], with_samples: int, problems: list[str]) -> int:
    """How many scenarios have neither a sample nor a recorded failure; a problem where the anchors left out are too few for it."""
    try:
        failed, scenarios = len(manifest["failures"]), int(manifest["scenarios"])
        anchors = sum(int(n) for reason, n in manifest["left_out"].items() if not reason.startswith("after_"))
    except (KeyError, TypeError, ValueError, AttributeError):
        problems.append(f"{MANIFEST}: does not say how many scenarios, failures and left out anchors there were")
        return 0
    silent = scenarios - with_samples - failed
    if silent < 0 or silent > anchors:
        problems.append(
            f"{MANIFEST}: of {scenarios} scenarios {with_samples} have samples in the shards and {failed} failed; that "
            f"{abs(silent)} {'have neither' if silent > 0 else 'are too many'} is not explained by {anchors} anchors left out"
        )
        return 0
    return silent


def _first_difference(expected: str, found: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    start = max(0, at - 20)
    return f"...{found[start : at + 20]!r}, expected ...{expected[start : at + 20]!r}"
