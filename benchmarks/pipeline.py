"""Where the time of an eight-camera sample goes: rollout, images, JPEG, trace and text, on one core.

OMP_NUM_THREADS=1 python benchmarks/pipeline.py [--scenarios 17] [--rig 8]
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

from data_gen.sample import SampleConfig
from nsdrive.cameras.render import Renderer, encode_jpeg
from nsdrive.cameras.rig import make_rig
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.synthetic import SyntheticConfig
from nsdrive.trace.build import build_trace
from nsdrive.trace.text import parse, render
from nsdrive.world.navigation import navigation
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS
from planners.idm import IdmConfig, IdmPlanner

ONCE_A_SCENARIO = (
    "load the scenario",
    "roll out 13 s (131 ticks)",
    "prepare the static world",
)  # `generate` does them once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=17)
    parser.add_argument("--rig", default="8")
    arguments = parser.parse_args()
    source = open_source("synthetic", SyntheticConfig(n_scenarios=arguments.scenarios + 1))
    rig, planner = make_rig(arguments.rig), IdmPlanner(IdmConfig())
    spent: dict[str, float] = defaultdict(float)
    for number, item in enumerate(source.items()):
        clock = time.perf_counter()

        def lap(stage: str) -> None:
            nonlocal clock
            now = time.perf_counter()
            if number:  # noqa: B023  # the first scenario compiles the kernels
                spent[stage] += now - clock
            clock = now

        scenario = source.load(item)
        lap("load the scenario")
        rollout = simulate(scenario, planner, start_tick=HISTORY_TICKS)
        lap("roll out 13 s (131 ticks)")
        renderer = Renderer(scenario.lane_map, scenario.scenery_seed)
        lap("prepare the static world")
        views = renderer.render(rollout.states[0].pose, rollout.frames[0], rollout.lights[0], rig)
        lap("draw the images")
        for view in views.values():
            encode_jpeg(view.rgb)
        lap("encode the JPEGs")
        seen = {name: view.seen for name, view in views.items()}
        where_to = navigation(scenario.mission, rollout.states[0])
        trace, _ = build_trace(rollout, 0, seen=seen, navigation=where_to)
        parse(render(trace, "detailed"))
        lap("navigation, trace, text")
    total = sum(spent.values())
    print(f"{'stage':28s} {'ms per sample':>14s} {'share':>7s}")
    for stage, seconds in spent.items():
        print(f"{stage:28s} {1e3 * seconds / arguments.scenarios:14.1f} {seconds / total:7.1%}")
    print(
        f"{'all':28s} {1e3 * total / arguments.scenarios:14.1f}   {arguments.scenarios / total:.1f} samples/s on one core"
    )
    once = sum(spent[stage] for stage in ONCE_A_SCENARIO)
    shared = total - once + once / SampleConfig().anchors_per_scenario
    rate = arguments.scenarios / shared
    print(
        f"{'five samples a scenario':28s} {1e3 * shared / arguments.scenarios:14.1f}   {rate:.1f} samples/s on one core"
    )


if __name__ == "__main__":
    main()
