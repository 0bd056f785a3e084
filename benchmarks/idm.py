"""How long an IDM tick takes with many agents, beside the lead search that nuPlan's IDM does with polygons.

OMP_NUM_THREADS=1 python benchmarks/idm.py [--agents 60]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import shapely

from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.world.geometry import box_corners
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, ObjectFrame, Observation
from planners.idm import IdmConfig, IdmPlanner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=60)
    agents = parser.parse_args().agents
    scenario = build(SyntheticConfig(families=("red_light_lead",)), 0)
    frame = crowd(scenario.frames[HISTORY_TICKS], agents)
    ego = scenario.ego_log[HISTORY_TICKS]
    observation = Observation(
        tick=HISTORY_TICKS,
        time_s=HISTORY_TICKS * INTERVAL_S,
        ego=ego,
        ego_history=scenario.ego_log,
        objects=frame,
        lights=scenario.lights[HISTORY_TICKS],
    )
    planner = IdmPlanner(IdmConfig())
    planner.initialize(scenario.mission, ego)
    poses = planner.plan(observation).trajectory.poses_global
    corridor = shapely.LineString(poses[:, :2] + np.arange(len(poses))[:, None] * 1e-3).buffer(1.15)

    def polygons_only() -> None:
        tree = shapely.STRtree(shapely.polygons(box_corners(frame.boxes)))
        tree.query(corridor, predicate="intersects")

    ours = median_ms(lambda: planner.plan(observation))
    theirs = median_ms(polygons_only)
    print(f"{agents} agents, medians of 400 calls on one core")
    print(f"whole IDM tick (all rules, 8 s plan, decision)   {ours:.3f} ms")
    print(f"polygon lead search alone (shapely tree)         {theirs:.3f} ms   ratio {ours / theirs:.2f}")


def crowd(frame: ObjectFrame, agents: int) -> ObjectFrame:
    """A frame with exactly `agents` objects: the given ones, repeated further and further to the side."""
    rows = [k % len(frame) for k in range(agents)]
    more = frame.take(rows)
    more.boxes[:, 1] += 40.0 * (np.arange(agents) // len(frame))
    ids = tuple(f"{name}-{k}" for k, name in enumerate(more.ids))
    return ObjectFrame(
        ids=ids,
        kinds=more.kinds,
        boxes=more.boxes,
        heights_m=more.heights_m,
        velocities_mps=more.velocities_mps,
        accels_mps2=more.accels_mps2,
        indicators=more.indicators,
    )


def median_ms(call: Callable[[], object]) -> float:
    for _ in range(20):
        call()
    times = []
    for _ in range(400):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


if __name__ == "__main__":
    main()
