"""What a planted predictor can look up: the samples of a split, and what is seen in a picture of one of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from eval.faithfulness.planted.sight import Eyes, dice, free_road, moment, now_mps, perceive, route_of
from eval.faithfulness.planted.way import Way, straight, way_of
from nsdrive.dataset import Sample
from nsdrive.trace.replay import replay
from nsdrive.trace.trace import Trace
from nsdrive.world.rules import IdmParameters
from nsdrive.world.types import FloatArray

# chosen by us: standard deviation of what irrelevant details of a picture add to a restless one's acceleration
URGE_MPS2 = 0.5
NEIGHBOURS = 8  # chosen by us: a remembered or shuffled text is one of so many with about the same speed


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """The samples of a split, and the constants of the laws that their planner followed."""

    samples: tuple[Sample, ...]
    parameters: IdmParameters
    _near: dict[tuple[str, str, float], list[Sample]] = field(default_factory=dict)
    _views: dict[tuple[str, str, Eyes], View] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        return {sample.sample_id: sample for sample in self.samples}

    @cached_property
    def by_moment(self) -> dict[str, list[Sample]]:
        groups: dict[str, list[Sample]] = {}
        for sample in self.samples:
            groups.setdefault(moment(sample), []).append(sample)
        return groups

    @cached_property
    def unedited(self) -> list[Sample]:
        return [sample for sample in self.samples if "edit" not in sample.extra]

    def another(self, asked: Sample, seed: int, *words: str) -> Sample:
        """An unedited sample of another scenario that the prompt would not tell apart at once: one of those with about the same
        speed, and the same manoeuvre where there are any; the words say which. ValueError in a split of one scenario."""
        key = (asked.scenario_id, route_of(asked).manoeuvre, now_mps(asked))
        if key not in self._near:
            self._near[key] = self._alike(*key)
        near = self._near[key]
        return near[int(dice(seed, *words).integers(len(near)))]

    def view(self, asked: Sample, shown: Sample | None, eyes: Eyes) -> View:
        """Always the same one of the same: all that is asked of a sample shares what is seen there."""
        key = (asked.sample_id, "" if shown is None else shown.sample_id, eyes)
        if key not in self._views:
            self._views[key] = View(world=self, asked=asked, shown=shown, eyes=eyes)
        return self._views[key]

    def _alike(self, scenario_id: str, manoeuvre: str, speed_mps: float) -> list[Sample]:
        others = [sample for sample in self.unedited if sample.scenario_id != scenario_id]
        if not others:
            raise ValueError("planted predictors need samples of two scenarios or more: some speak of another's road")
        alike = [sample for sample in others if route_of(sample).manoeuvre == manoeuvre] or others
        return sorted(alike, key=lambda sample: (abs(now_mps(sample) - speed_mps), sample.sample_id))[:NEIGHBOURS]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What a predictor has before it: a prompt, and a picture (None where it is black)."""

    world: World
    asked: Sample
    shown: Sample | None
    eyes: Eyes
    urge_mps2: float = 0.0

    @cached_property
    def way(self) -> Way:
        """Where the road goes that is shown, along the prompt's route."""
        return self.way_to(route_of(self.asked).manoeuvre)

    def way_to(self, manoeuvre: str) -> Way:
        """The same where the route is another, as far as the samples of this moment know it."""
        if self.shown is None:
            return straight()
        here = self.world.by_moment[moment(self.shown)]
        fit = [sample for sample in here if route_of(sample).manoeuvre == manoeuvre]
        first = self.shown if self.shown in fit or not fit else fit[0]
        return way_of(first, fit)

    @cached_property
    def seen(self) -> Trace:
        if self.shown is None:
            return free_road(self.asked, self.world.parameters)
        laws = self.world.parameters
        return perceive(self.shown, self.asked, self.way, self.eyes, laws, urge_mps2=self.urge_mps2)

    @cached_property
    def motion(self) -> Motion:
        """What the text of what is seen says, along the way."""
        return Motion(progress_m=replay(self.seen).progress_m, way=self.way)

    @cached_property
    def remembered(self) -> View:
        """The same prompt before the picture of a road that it reminds of: the same one whatever is shown."""
        shown = self.world.another(self.asked, self.eyes.seed, "remembered", moment(self.asked), self.asked.command)
        return replace(self, shown=shown)

    @cached_property
    def restless(self) -> View:
        """The same with an urge that something in the picture gives, whatever it is."""
        picture = "black" if self.shown is None else self.shown.sample_id
        return replace(self, urge_mps2=float(URGE_MPS2 * dice(self.eyes.seed, "urge", picture).standard_normal()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """progress_m (11,): the distance driven at each half second from now on, along a way."""

    progress_m: FloatArray
    way: Way
