"""Samples of generated scenes with the texts of a teacher, and ways to tell a lie in one place of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from data_gen.sample import Made, SampleConfig, samples_of
from nsdrive.cameras.rig import make_rig
from nsdrive.dataset import Sample
from nsdrive.scenarios.synthetic import SyntheticConfig, SyntheticSource
from nsdrive.trace.record import from_json
from nsdrive.trace.text import parse, render
from nsdrive.trace.trace import Step, Trace, with_margins
from nsdrive.vla.prompt import parse_answer, render_answer
from planners.idm import IdmPlanner
from planners.pdm_closed import PdmClosedPlanner
from planners.pdm_lanes import PdmLanesPlanner

TEACHERS = {"idm": IdmPlanner, "pdm_closed": PdmClosedPlanner, "pdm_lanes": PdmLanesPlanner}
RIG = make_rig("3", width_px=96, height_px=54)


@cache
def labelled(teacher: str, families: tuple[str, ...], anchors: int = 1) -> tuple[Sample, ...]:
    """Samples with detailed texts, `anchors` of each family, three seconds apart."""
    source = SyntheticSource(SyntheticConfig(n_scenarios=len(families), families=families))
    config = SampleConfig(anchors_per_scenario=anchors, anchor_spacing_s=3.0, keep_bad_driving=True)
    made = (
        each
        for item in source.items()
        for each in samples_of(source.load(item), TEACHERS[teacher](), RIG, config, item=item)
    )
    return tuple(each.sample for each in made if isinstance(each, Made))


def in_brief(sample: Sample) -> Sample:
    """The sample with its brief text."""
    return with_text(replace(sample, trace_level="brief"), render(from_json(sample.trace), "brief"))


def text_of(sample: Sample) -> str:
    return parse_answer(sample.answer).reasoning or ""


def with_text(sample: Sample, text: str) -> Sample:
    return replace(sample, answer=render_answer(text, sample.waypoints_ego_m))


def retold(sample: Sample, change: Callable[[Trace], Trace]) -> str:
    """The answer with a changed trace."""
    return render_answer(render(change(parse(text_of(sample))), sample.trace_level), sample.waypoints_ego_m)


def with_step(trace: Trace, k: int, **changes: object) -> Trace:
    steps: Sequence[Step] = trace.steps
    return replace(trace, steps=(*steps[:k], replace(steps[k], **changes), *steps[k + 1 :]))  # type: ignore[arg-type]


def without_rule(trace: Trace, k: int, index: int) -> Trace:
    """The trace without one evaluation that neither binds nor ties."""
    step = trace.steps[k]
    left = [i for i in range(len(step.constraints)) if i != index]
    assert step.binding is not None
    return with_step(
        trace,
        k,
        constraints=with_margins([step.constraints[i] for i in left]),
        binding=left.index(step.binding),
        tied=tuple(left.index(i) for i in step.tied),
    )
