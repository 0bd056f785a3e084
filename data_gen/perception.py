"""A data set's scenes as short questions and answers: a dataset folder of its own, for warm-up or co-training.

    perceive(open_dataset("out/data"), Path("out/seen"), per_image=2, scenes=scene_of)

    OUT/
        perception.json     the settings, and which dataset it is from
        train-00000.jsonl   one question a line, of the samples in the source's shard of that name; also val-*, test-*
        images/...          the source's images that are asked about, hard links where the disk allows it
        README.md           the card: examples and counts
        manifest.json       written last; its "kind" is "perception"

A line has `images` and `messages` as every dataset has, trace_level "perception", and under `nsdrive` the source's sample,
the cameras, the topic and the facts that the answer follows from (see `data_gen.perception_questions`).

Most images show no light, nobody ahead and no cyclist. Of answers that there is nothing, as many are kept of each topic as
there are others. A shard is one unit of work, as a chunk is in `data_gen.generate`: the same bytes whatever the number of
workers, and a kill loses only the shards in the making.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_gen.perception_card import write_card
from data_gen.perception_facts import facts_for, facts_of, with_scenes
from data_gen.perception_questions import Question, prompt_of, questions_of
from nsdrive import __version__
from nsdrive.counted import counted
from nsdrive.dataset import (
    FORMAT_VERSION,
    MANIFEST,
    PERCEPTION,
    SPLITS,
    Dataset,
    Sample,
    inside,
    json_line,
    lines_of,
    link_or_copy,
    open_dataset,
    refuse_perception,
    sha256_of,
    write_atomically,
)
from nsdrive.output_folder import claim_folder, refuse_in_each_other, settle
from nsdrive.parallel import check_workers, in_order
from nsdrive.world.types import Scenario

SETTINGS, NOTES = "perception.json", ".chunks"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard of the source. keep: topic -> share of its answers that there is nothing which is kept; None: only count."""

    source: Path
    source_sha256: str  # of its manifest
    split: str
    shard: str
    out: Path
    per_image: int
    seed: int
    scenes: Callable[[Sample], Scenario] | None
    keep: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question and what it is asked of."""

    question: Question
    cameras: tuple[str, ...]
    facts: Mapping[str, Any]

    def name(self, sample_id: str) -> str:
        return f"{sample_id}:{self.cameras[0] if len(self.cameras) == 1 else 'all'}:{self.question.topic}"


@dataclass(frozen=True, kw_only=True)
class Perceived:
    """What came of it. counts: topic -> questions; nothing: topic -> those of them whose answer is that there is nothing.
    without_scene: samples whose scenario is not at hand, so that nothing is asked of lights and lanes."""

    folder: Path
    n_questions: int
    n_samples: int
    counts: Mapping[str, int]
    nothing: Mapping[str, int]
    without_scene: int

    def summary(self) -> str:
        topics = ", ".join(f"{n} {topic}" for topic, n in self.counts.items())
        said = f"{counted(self.n_questions, 'question')} of {counted(self.n_samples, 'sample')} ({topics})"
        if self.without_scene:
            said += f"; {counted(self.without_scene, 'sample')} without questions of lights and lanes: no scenario of them is here"
        return said


def perceive(
    dataset: Dataset,
    out: Path,
    *,
    per_image: int = 2,
    seed: int = 0,
    scenes: Callable[[Sample], Scenario] | None = None,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Perceived:
    """Make the dataset folder `out` with at most `per_image` questions of every image and of every sample's images together.

    scenes: sample -> its scenario, picklable where workers > 1; without it nothing is asked of lights and lanes.
    `progress(done, total)` counts shards, each twice. Raises ValueError, one line, for a dataset without boxes.
    """
    refuse_perception(dataset)
    if per_image < 1:
        raise ValueError(f"There must be at least one question of an image, got {per_image}")
    check_workers(workers)
    refuse_in_each_other(dataset.folder, out)
    sha256 = sha256_of(dataset.folder / MANIFEST)
    jobs = [
        Job(
            source=dataset.folder,
            source_sha256=sha256,
            split=split,
            shard=shard.name,
            out=out,
            per_image=per_image,
            seed=seed,
            scenes=scenes,
        )
        for split in SPLITS
        for shard in dataset.shards(split)
    ]
    first = next((sample for split in SPLITS for sample in dataset.samples(split)), None)
    if first is None:
        raise ValueError(f"{dataset.folder} holds no samples: nothing to ask about")
    facts_of(first, None)  # what cannot be asked about is said before minutes are lost
    claim_folder(out, resume=resume, overwrite=overwrite, marker=SETTINGS)
    settle(out, SETTINGS, _settings(jobs[0]))
    if (out / MANIFEST).is_file():
        shutil.rmtree(out / NOTES, ignore_errors=True)
        return _perceived(out, json.loads((out / MANIFEST).read_text(encoding="utf-8")))
    counted = _counted(jobs, workers, progress)
    keep = {name: min(1.0, counted.get(f"some/{name}", 0) / n) for name, n in _under("nothing", counted).items()}
    for done, _ in enumerate(
        in_order(write_shard, [replace(job, keep=keep) for job in jobs], workers), start=len(jobs) + 1
    ):
        progress(done, 2 * len(jobs))
    return _perceived(out, _finish(out, dataset, jobs))


def write_shard(job: Job) -> None:
    """Write a shard's questions and bring its images, then its note. Does nothing where the note exists."""
    assert job.keep is not None
    note = job.out / NOTES / f"{job.shard}.json"
    if note.is_file():
        return
    dataset = _opened(job.source, job.source_sha256)
    known: Mapping[str, str] = dataset.manifest["files"]
    lines: list[str] = []
    files: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for sample, all_asked, has_scene in _asked_of_shard(job):
        counts["samples"] += 1
        counts["without_scene"] += not has_scene
        for asked in chosen(all_asked, sample.sample_id, per_image=job.per_image, seed=job.seed):
            kept = _lot(f"keep:{job.seed}:{asked.name(sample.sample_id)}") < job.keep.get(asked.question.topic, 0.0)
            if asked.question.nothing and not kept:
                continue
            paths = [path for path in sample.images if Path(path).stem in asked.cameras]
            for path in paths:
                if path not in known:
                    raise ValueError(f"{path} of sample {sample.sample_id[:80]} is not in {MANIFEST}: nsdrive check")
                link_or_copy(dataset.image_path(path), inside(job.out, path))
                files[path] = known[path]
            lines.append(json_line(row_of(sample, asked, paths)))
            counts[f"topic/{asked.question.topic}"] += 1
            counts[f"nothing/{asked.question.topic}"] += asked.question.nothing
            counts[f"split/{job.split}"] += 1
    if lines:
        write_atomically(job.out / job.shard, "".join(lines))
        files[job.shard] = sha256_of(job.out / job.shard)
    write_atomically(note, json.dumps({"counts": dict(counts), "files": files}, indent=1, sort_keys=True))


def row_of(sample: Sample, asked: Asked, images: list[str]) -> dict[str, Any]:
    """The line of a shard: for a trainer as any other."""
    return {
        "id": asked.name(sample.sample_id),
        "scenario": sample.scenario_id,
        "scenario_type": sample.scenario_type,
        "planner": sample.planner,
        "trace_level": PERCEPTION,
        "images": images,
        "messages": [
            {"role": "user", "content": prompt_of(asked.cameras, asked.question.text)},
            {"role": "assistant", "content": asked.question.answer},
        ],
        "nsdrive": {
            "sample": sample.sample_id,
            "cameras": list(asked.cameras),
            "topic": asked.question.topic,
            "facts": dict(asked.facts),
        },
    }


def all_of(sample: Sample, scenario: Scenario | None) -> list[list[Asked]]:
    """All that can be asked of each image of a sample, and last of all its images together."""
    facts = facts_of(sample, scenario)
    cameras = tuple(Path(path).stem for path in sample.images)
    groups = [*((name,) for name in cameras), *([cameras] if len(cameras) > 1 else [])]
    asked = []
    for group in groups:
        own = facts_for(facts, group)
        try:
            asked.append([Asked(question=q, cameras=group, facts=own) for q in questions_of(own)])
        except ValueError as error:
            raise ValueError(f"Sample {sample.sample_id[:80]}: {error}") from None
    return asked


def chosen(asked: list[list[Asked]], sample_id: str, *, per_image: int, seed: int) -> Iterator[Asked]:
    """At most `per_image` of each group, by a lot that only its name and the seed decide."""
    for group in asked:
        lots = [_lot(f"{seed}:{each.name(sample_id)}") for each in group]
        taken = sorted(range(len(group)), key=lots.__getitem__)[:per_image]
        yield from (group[k] for k in sorted(taken))


def count_shard(job: Job) -> dict[str, int]:
    """ "some/TOPIC" and "nothing/TOPIC" -> how many of a shard's chosen answers are so."""
    note = job.out / NOTES / f"{job.shard}.counted.json"
    if note.is_file():
        return dict(json.loads(note.read_text(encoding="utf-8")))
    counts: Counter[str] = Counter()
    for sample, groups, _ in _asked_of_shard(job):
        for each in chosen(groups, sample.sample_id, per_image=job.per_image, seed=job.seed):
            counts[f"{'nothing' if each.question.nothing else 'some'}/{each.question.topic}"] += 1
    write_atomically(note, json.dumps(dict(counts), sort_keys=True))
    return dict(counts)


def _asked_of_shard(job: Job) -> Iterator[tuple[Sample, list[list[Asked]], bool]]:
    """Every sample of a shard, all that can be asked of it, and whether its scenario was at hand."""
    samples = (line.sample() for line in lines_of(inside(job.source, job.shard)))
    for sample, scenario in with_scenes(samples, job.scenes):
        yield sample, all_of(sample, scenario), scenario is not None


@lru_cache(maxsize=1)
def _opened(folder: Path, sha256: str) -> Dataset:
    """The source, opened once by each process: its manifest names every image. sha256 tells one manifest from another."""
    return open_dataset(folder)


def _lot(text: str) -> float:
    """In [0, 1), from a text alone."""
    return zlib.crc32(text.encode()) / 2**32


# ---- the folder ---------------------------------------------------------------------------------------------------------


def _settings(job: Job) -> dict[str, Any]:
    return {
        "nsdrive": __version__,
        "dataset_sha256": job.source_sha256,
        "per_image": job.per_image,
        "seed": job.seed,
        "scenes": job.scenes is not None,
    }


def _counted(jobs: list[Job], workers: int, progress: Callable[[int, int], None]) -> Counter[str]:
    total: Counter[str] = Counter()
    for done, counts in enumerate(in_order(count_shard, jobs, workers), start=1):
        total.update(counts)
        progress(done, 2 * len(jobs))
    return total


def _finish(out: Path, dataset: Dataset, jobs: list[Job]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    files: dict[str, str] = {SETTINGS: sha256_of(out / SETTINGS)}
    for job in jobs:
        note = json.loads((out / NOTES / f"{job.shard}.json").read_text(encoding="utf-8"))
        counts.update(note["counts"])
        files.update(note["files"])
    splits = _under("split", counts)
    manifest = {
        "format_version": FORMAT_VERSION,
        "kind": PERCEPTION,
        "nsdrive": __version__,
        "source": dataset.manifest.get("source", ""),
        "licence": dataset.manifest.get("licence", ""),
        "config": json.loads((out / SETTINGS).read_text(encoding="utf-8")),
        "samples": sum(splits.values()),
        "of_samples": counts["samples"],
        "without_scene": counts["without_scene"],
        "counts": {
            "split": {split: splits.get(split, 0) for split in SPLITS},
            "topic": _under("topic", counts),
            "nothing": _under("nothing", counts),
        },
        "files": files,
    }
    write_card(out, manifest)
    files["README.md"] = sha256_of(out / "README.md")
    manifest["files"] = dict(sorted(files.items()))
    write_atomically(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    shutil.rmtree(out / NOTES)
    return manifest


def _perceived(out: Path, manifest: Mapping[str, Any]) -> Perceived:
    return Perceived(
        folder=out,
        n_questions=manifest["samples"],
        n_samples=manifest["of_samples"],
        counts=manifest["counts"]["topic"],
        nothing=manifest["counts"]["nothing"],
        without_scene=manifest["without_scene"],
    )


def _under(group: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts of a group, by name."""
    return {key.partition("/")[2]: n for key, n in sorted(counts.items()) if key.partition("/")[0] == group}
