"""Is a dataset of questions about images true? Every file is hashed, and every answer made again from its facts.

With the dataset that it is from at hand, the facts are also held to what that one stores of the sample, and, where its
scenarios are at hand too, to the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_gen.check import check_files
from data_gen.perception_facts import facts_for, facts_of, with_scenes
from data_gen.perception_questions import prompt_of, questions_of
from nsdrive.counted import counted
from nsdrive.dataset import MANIFEST, PERCEPTION, SPLITS, Dataset, inside, lines_of, sha256_of
from nsdrive.dataset import Sample as Drive
from nsdrive.parallel import in_order
from nsdrive.world.types import Scenario

ON_THE_MAP = ("light", "lane")  # facts that are not stored with a sample


@dataclass(frozen=True, kw_only=True)
class QuestionsChecked:
    """What was looked at and what was wrong. held: questions whose facts were held to the dataset that they are from."""

    questions: int
    held: int
    problems: tuple[str, ...]

    def summary(self) -> str:
        verdict = "every one is true" if not self.problems else counted(len(self.problems), "problem")
        held = (
            f", {self.held} of them held to their dataset"
            if self.held
            else ", none held to its dataset (--source DATASET)"
        )
        return f"{counted(self.questions, 'question')}{held}: {verdict}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard, and where the dataset that it is from lies, None where it is not at hand."""

    shard: Path
    source: Path | None
    scenes: Callable[[Drive], Scenario] | None


@dataclass(frozen=True, kw_only=True)
class ShardChecked:
    ids: tuple[str, ...]
    held: int
    problems: tuple[str, ...]


def check_perception(
    dataset: Dataset,
    *,
    source: Dataset | None = None,
    scenes: Callable[[Drive], Scenario] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> QuestionsChecked:
    """Check everything; never raises for a fault of the data. source: the dataset whose images are asked about; scenes: its
    samples' scenarios. ValueError where that is another dataset."""
    if source is not None and sha256_of(source.folder / MANIFEST) != dataset.manifest["config"].get("dataset_sha256"):
        raise ValueError(f"{dataset.folder} was not made from {source.folder} as it is now (another manifest)")
    problems = list(check_files(dataset))
    origin = None if source is None else source.folder
    shards = [(split, shard) for split in SPLITS for shard in dataset.shards(split)]
    jobs = [Job(shard=shard, source=origin, scenes=scenes) for _, shard in shards if shard.is_file()]
    n = held = 0
    seen: set[str] = set()
    for done, found in enumerate(in_order(check_shard, jobs, workers), start=1):
        n, held = n + len(found.ids), held + found.held
        problems += found.problems
        problems += [f"{name}: this id occurs twice" for name in found.ids if name in seen]
        seen.update(found.ids)
        progress(done, len(jobs))
    if n != dataset.manifest.get("samples"):
        problems.append(f"{MANIFEST}: counts {dataset.manifest.get('samples')} questions, the shards hold {n}")
    return QuestionsChecked(questions=n, held=held, problems=tuple(problems))


def check_shard(job: Job) -> ShardChecked:
    problems: list[str] = []
    ids: list[str] = []
    held = 0
    drives = _drives(job)
    for line in lines_of(job.shard):
        row: dict[str, Any] = {}
        try:
            row = line.row()
            ids.append(str(row["id"]))
            problems += [f"{line.where} {row['id']}: {wrong}" for wrong in wrong_with(row)]
            if job.source is not None:
                held += 1
                problems += [f"{line.where} {row['id']}: {wrong}" for wrong in _wrong_facts(row, drives)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            name = str(row.get("id", ""))[:80]
            problems.append(f"{line.where} {name}: cannot be read: {type(error).__name__} {error}"[:300])
    return ShardChecked(ids=tuple(ids), held=held, problems=tuple(problems))


def wrong_with(row: Mapping[str, Any]) -> Iterator[str]:
    """What of a row does not follow from its own facts."""
    about, (asked, answered) = row["nsdrive"], row["messages"]
    cameras = about["cameras"]
    if row["trace_level"] != PERCEPTION:
        yield f"its trace level is {row['trace_level']!r}"
    if [Path(path).stem for path in row["images"]] != cameras:
        yield "its images are not of its cameras"
    if [camera["name"] for camera in about["facts"]["cameras"]] != cameras:
        yield "its facts are of other cameras"
    where = cameras[0] if len(cameras) == 1 else "all"
    if row["id"] != f"{about['sample']}:{where}:{about['topic']}":
        yield "its id does not name its sample, cameras and topic"
    made = {question.topic: question for question in questions_of(about["facts"])}
    question = made.get(about["topic"])
    if question is None:
        yield f"from its facts nothing can be asked about {about['topic']}"
        return
    if asked["content"] != prompt_of(cameras, question.text):
        yield "its question is not the one that its facts make"
    if answered["content"] != question.answer:
        yield f"its answer is {answered['content']!r}, from its facts it is {question.answer!r}"


def _wrong_facts(row: Mapping[str, Any], drives: Mapping[str, tuple[dict[str, Any], bool]]) -> Iterator[str]:
    """How a row's facts differ from those of the sample that it is from."""
    about = row["nsdrive"]
    found = drives.get(about["sample"])
    if found is None:
        yield f"the dataset has no sample {about['sample']!r} in that shard"
        return
    facts, has_scene = found
    expected = facts_for(facts, tuple(about["cameras"]))
    for key in sorted(set(expected) | set(about["facts"])):
        if key in ON_THE_MAP and not has_scene:
            continue
        if about["facts"].get(key) != expected.get(key):
            yield f"its fact {key!r} is not the dataset's"


def _drives(job: Job) -> dict[str, tuple[dict[str, Any], bool]]:
    """sample id -> its facts, and whether those of the map are among them."""
    if job.source is None:
        return {}
    found: dict[str, tuple[dict[str, Any], bool]] = {}
    samples = (line.sample() for line in lines_of(inside(job.source, job.shard.name)))
    for sample, scenario in with_scenes(samples, job.scenes):
        found[sample.sample_id] = (facts_of(sample, scenario), scenario is not None)
    return found
