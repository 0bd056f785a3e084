"""What a split says, N samples in order: what measures, baselines and groups need, not the texts.

Labels come from a dataset folder (only a few fields of each line are read), from a JSON list as the release has it, or from
the `label` fields of predictions files. The last two know no scenario, no ego state and no trace: each sample is then its own
scenario, and groups are by speed and length of the label alone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from math import nan
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from eval.open_loop.baselines import EgoStates
from eval.open_loop.groups import IMAGE_PX, NOT_AN_OBJECT, length_groups, speed_groups, visibility_group
from eval.open_loop.predictions_file import PredictionsFile, read_file
from eval.open_loop.release_format import printed_points
from nsdrive.dataset import MANIFEST, Dataset, sha256_of
from nsdrive.vla.prompt import N_WAYPOINTS, WAYPOINT_INTERVAL_S
from nsdrive.world.types import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """waypoints_ego_m (N, 10, 2), nan after the last where a label has fewer. printed_m (N, 10, 2), of which n_printed (N,) rows
    count: the label as its text prints it. groups: title -> N names, see `eval.open_loop.groups`. ego: None where nothing is
    known of it. spans: each sample's line, (shard, first byte, length), empty without a dataset. facts: results["dataset"].
    """

    ids: list[str]
    scenarios: list[str]
    waypoints_ego_m: FloatArray
    printed_m: FloatArray
    n_printed: FloatArray
    groups: Mapping[str, list[str]]
    ego: EgoStates | None
    facts: Mapping[str, Any]
    spans: Sequence[tuple[Path, int, int]] = ()
    places: Mapping[int, int] = field(default_factory=dict)  # place in a JSON list (the release's orig_idx) -> sample
    unreadable: frozenset[str] = frozenset()  # ids whose label has no point: left out, as the release's script does

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.scenarios) == len(self.waypoints_ego_m) == len(self.n_printed)

    def asked_in(self, asked: Sequence[Sequence[str]]) -> Labels:
        """The samples that any of the given lists names, all of them where none does: an answer to no question is no failure."""
        wanted = {sample_id for ids in asked for sample_id in ids}
        kept = [i for i, sample_id in enumerate(self.ids) if sample_id in wanted]
        if not kept or len(kept) == len(self.ids):
            return self
        ids, scenarios = [self.ids[i] for i in kept], [self.scenarios[i] for i in kept]
        part = {
            "samples": len(kept),
            "scenarios": len(set(scenarios)),
            "samples_in_split": len(self.ids),
            "samples_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        }
        return replace(
            self,
            ids=ids,
            scenarios=scenarios,
            waypoints_ego_m=self.waypoints_ego_m[kept],
            printed_m=self.printed_m[kept],
            n_printed=self.n_printed[kept],
            groups={title: [names[i] for i in kept] for title, names in self.groups.items()},
            ego=None if self.ego is None else self.ego.at(kept),
            spans=[self.spans[i] for i in kept],
            facts=dict(self.facts) | part,
        )

    @cached_property
    def positions(self) -> dict[str, int]:
        return {sample_id: i for i, sample_id in enumerate(self.ids)}

    @cached_property
    def clusters(self) -> np.ndarray:
        """(N,) the number of each sample's scenario, in the order of the scenarios' names."""
        return np.unique(np.array(self.scenarios), return_inverse=True)[1]


def dataset_labels(dataset: Dataset, split: str, progress: Callable[[int, int], None]) -> Labels:
    """The labels of a split. Raises ValueError for an empty split or a line that is no sample."""
    total = int(dataset.manifest.get("counts", {}).get("split", {}).get(split, 0))
    found = _Columns()
    for line in dataset.lines(split):
        try:
            found.add(_SAMPLE.decode(line.data))
        except (msgspec.MsgspecError, ValueError, KeyError) as error:
            raise ValueError(f"{line.where}: {error}") from None
        found.spans.append((line.shard, line.start, len(line.data)))
        if len(found.ids) % 100 == 0 or len(found.ids) >= total:
            progress(len(found.ids), max(total, len(found.ids)))
    if not found.ids:
        raise ValueError(f"{dataset.folder} has no samples in split '{split}': nothing to evaluate")
    manifest = dataset.manifest
    facts = {
        "name": dataset.folder.resolve().name,
        "manifest_sha256": sha256_of(dataset.folder / MANIFEST),
        "made_by_nsdrive": manifest.get("nsdrive"),
        "source": manifest.get("source"),
        "licence": manifest.get("licence"),
        "config": manifest.get("config"),
        "all_splits": manifest.get("counts", {}).get("split"),
        "split": split,
    }
    return found.labels(facts)


def list_labels(path: Path) -> Labels:
    """The labels of a JSON list (or JSON lines) of items with `messages`, as the release has it. Raises ValueError where no item
    has a label."""
    found = read_file(path)
    facts = {"name": path.name, "manifest_sha256": sha256_of(path)}
    last = {
        sample_id: k for k, sample_id in enumerate(found.ids)
    }  # of two items with one id the release's script takes the last
    kept = sorted(last.values())
    ids, places = [found.ids[k] for k in kept], np.array([found.numbers[k] - 1 for k in kept])
    return _plain_labels(ids, found.printed_m[kept], found.n_printed[kept], facts, places)


def own_labels(files: Sequence[PredictionsFile]) -> Labels:
    """The labels that predictions files bring along in their `label` fields; the first that names a sample decides.

    Raises ValueError where there are none.
    """
    rows: dict[str, tuple[PredictionsFile, int]] = {}
    for file in files:
        for row in np.flatnonzero(file.n_label >= 0):
            rows.setdefault(file.ids[row], (file, int(row)))
    if not rows:
        raise ValueError(
            f"{files[0].path} has no 'label' fields to measure against: "
            "give the labels with --data, a dataset folder or a JSON list"
        )
    printed = np.array([file.label_m[row] for file, row in rows.values()])
    counts = np.array([file.n_label[row] for file, row in rows.values()])
    digest = hashlib.sha256("\n".join(rows).encode() + printed.tobytes() + counts.tobytes()).hexdigest()
    facts = {"name": "labels in the predictions files", "manifest_sha256": digest}
    return _plain_labels(list(rows), printed, counts, facts, np.zeros(0, dtype=int))


def _plain_labels(
    ids: list[str],
    printed_m: FloatArray,
    n_printed: FloatArray,
    facts: Mapping[str, Any],
    places: np.ndarray,
) -> Labels:
    """Labels of which only the text is known; those without a point are left out and counted, as the release's script does.
    places: of each in the JSON list, none where they come from no list."""
    readable = np.flatnonzero(n_printed > 0)
    if len(readable) == 0:
        raise ValueError(f"{facts['name']}: no label has a <PLANNING> block with [x, y] points in it")
    kept, printed_m, n_printed = [ids[k] for k in readable], printed_m[readable], n_printed[readable]
    there = np.arange(N_WAYPOINTS) < n_printed[:, None]
    waypoints = np.where(there[..., None], printed_m, np.nan)
    first_step_mps = np.hypot(printed_m[:, 0, 0], printed_m[:, 0, 1]) / WAYPOINT_INTERVAL_S
    return Labels(
        ids=kept,
        scenarios=kept,
        waypoints_ego_m=waypoints,
        printed_m=printed_m,
        n_printed=n_printed,
        groups={"by_speed": speed_groups(first_step_mps), "by_length": length_groups(waypoints)},
        ego=None,
        facts=dict(facts)
        | {
            "made_by_nsdrive": None,
            "source": None,
            "licence": None,
            "config": None,
            "all_splits": None,
            "split": "all",
            "trace_levels": {},
            "cameras": {},
            "planners": {},
            "samples": len(kept),
            "scenarios": len(kept),
            "scenario_types": {},
            "binding_rules": {},
            "unreadable_labels": len(ids) - len(kept),
        },
        unreadable=frozenset(ids) - frozenset(kept),
        places={int(places[k]): i for i, k in enumerate(readable)} if len(places) else {},
    )


# ---- what is read of a dataset's line -------------------------------------------------------------------------------


class _Turn(msgspec.Struct):
    role: str
    content: msgspec.Raw


class _State(msgspec.Struct):
    t_s: float
    vx_mps: float
    vy_mps: float
    ax_mps2: float
    ay_mps2: float


class _Camera(msgspec.Struct):
    width_px: float = 640.0
    height_px: float = 360.0


class _Rig(msgspec.Struct):
    cameras: list[_Camera] = []


class _Phase(msgspec.Struct):
    about: str | None = None


class _Trace(msgspec.Struct):
    phases: list[_Phase] = []


class _More(msgspec.Struct):
    """What is Raw is read only where it is needed."""

    ego_history: list[_State]
    waypoints_ego_m: list[tuple[float, float]]
    speed_limit_mps: float | None
    binding_rule: str
    trace: _Trace
    trace_names: msgspec.Raw
    rig: msgspec.Raw
    seen: msgspec.Raw = msgspec.Raw(b"null")


class _Sample(msgspec.Struct):
    """The fields of a line that an evaluation of waypoints needs; the rest, most of its bytes, is skipped unread."""

    id: str
    scenario: str
    scenario_type: str
    planner: str
    trace_level: str
    images: list[str]
    messages: list[_Turn]
    nsdrive: _More


_SAMPLE = msgspec.json.Decoder(_Sample)
_TEXT = msgspec.json.Decoder(str)
_NAMES = msgspec.json.Decoder(dict[str, str])
_SEEN = msgspec.json.Decoder(dict[str, dict[str, float]] | None)


@lru_cache(maxsize=64)
def _image_px(rig: bytes) -> float:
    """The pixels of one image of a rig's JSON, which is the same in all samples of most datasets."""
    cameras = msgspec.json.decode(rig, type=_Rig).cameras
    return cameras[0].width_px * cameras[0].height_px if cameras else IMAGE_PX


@dataclass(kw_only=True, eq=False)
class _Columns:
    ids: list[str] = field(default_factory=list)
    scenarios: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    visibilities: list[str] = field(default_factory=list)
    planners: list[str] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    cameras: list[int] = field(default_factory=list)
    waypoints: array[float] = field(default_factory=lambda: array("d"))
    printed: array[float] = field(default_factory=lambda: array("d"))
    counts: list[int] = field(default_factory=list)
    ego: array[float] = field(default_factory=lambda: array("d"))
    spans: list[tuple[Path, int, int]] = field(default_factory=list)

    def add(self, row: _Sample) -> None:
        more = row.nsdrive
        if [turn.role for turn in row.messages] != ["user", "assistant"]:
            raise ValueError("messages must be one user and one assistant turn")
        if len(more.waypoints_ego_m) != N_WAYPOINTS:
            raise ValueError(f"waypoints_ego_m must be {N_WAYPOINTS} [x, y], got {len(more.waypoints_ego_m)}")
        self.ids.append(row.id)
        self.scenarios.append(row.scenario)
        self.types.append(row.scenario_type)
        self.rules.append(more.binding_rule)
        self.planners.append(row.planner)
        self.levels.append(row.trace_level)
        self.cameras.append(len(row.images))
        about = more.trace.phases[0].about if more.trace.phases else None
        if about is None:
            self.visibilities.append(NOT_AN_OBJECT)
        else:
            names, seen = _NAMES.decode(more.trace_names), _SEEN.decode(more.seen)
            self.visibilities.append(visibility_group(about, names, seen, _image_px(bytes(more.rig))))
        self.waypoints.extend(chain.from_iterable(more.waypoints_ego_m))
        points = printed_points(_TEXT.decode(row.messages[1].content)) or [
            (round(x, 2), round(y, 2)) for x, y in more.waypoints_ego_m
        ]
        self.printed.extend(chain.from_iterable(points))
        self.printed.extend([0.0] * (2 * (N_WAYPOINTS - len(points))))
        self.counts.append(len(points))
        if not more.ego_history:
            raise ValueError("it has no ego history: baselines need at least the present state")
        now, before = more.ego_history[-1], more.ego_history[-2 if len(more.ego_history) > 1 else -1]
        limit_mps = nan if more.speed_limit_mps is None else more.speed_limit_mps
        velocities = now.vx_mps, now.vy_mps, now.ax_mps2, now.ay_mps2, before.vx_mps, before.vy_mps
        self.ego.extend((*velocities, now.t_s - before.t_s, limit_mps))

    def labels(self, facts: Mapping[str, Any]) -> Labels:
        waypoints = np.array(self.waypoints).reshape(-1, N_WAYPOINTS, 2)
        ego = EgoStates.stacked(np.array(self.ego))
        return Labels(
            ids=self.ids,
            scenarios=self.scenarios,
            waypoints_ego_m=waypoints,
            printed_m=np.array(self.printed).reshape(-1, N_WAYPOINTS, 2),
            n_printed=np.array(self.counts),
            groups={
                "by_scenario_type": self.types,
                "by_binding_rule": self.rules,
                "by_speed": speed_groups(np.hypot(ego.velocity_mps[:, 0], ego.velocity_mps[:, 1])),
                "by_visibility": self.visibilities,
                "by_length": length_groups(waypoints),
            },
            ego=ego,
            facts=dict(facts)
            | {
                "trace_levels": _counted(self.levels),
                "cameras": _counted(str(n) for n in self.cameras),
                "planners": _counted(self.planners),
                "samples": len(self.ids),
                "scenarios": len(set(self.scenarios)),
                "scenario_types": _counted(self.types),
                "binding_rules": _counted(self.rules),
            },
            spans=self.spans,
        )


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
