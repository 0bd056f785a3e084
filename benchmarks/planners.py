"""How long a tick of every planner takes, how that grows with agents and proposals, and the public code beside it, in one run.

OMP_NUM_THREADS=1 python benchmarks/planners.py [--plot planners.png] [--public DIR]

DIR holds the source trees `nuplan-devkit` and `tuplan_garage` and a python that can run them (`venv/bin/python`, or
--public-python). The public planners then drive the same scenario, written in nuPlan's format, in nuPlan's own simulator.
Every planner drives in closed loop; a tick is one call of `plan`, `compute_trajectory` there. Wall is what passed on a machine
that may do other things as well, CPU what was worked; both are medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

# Python looks beside this file first, and would take it for the package of the same name.
sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]

from nsdrive.cli import TEACHERS, choose_planner, planner_factory  # noqa: E402
from nsdrive.config import Chosen  # noqa: E402
from nsdrive.scenarios.synthetic import SyntheticConfig, build  # noqa: E402
from nsdrive.world.geometry import to_global  # noqa: E402
from nsdrive.world.simulate import simulate  # noqa: E402
from nsdrive.world.types import (  # noqa: E402
    HISTORY_TICKS,
    INTERVAL_S,
    EgoState,
    Mission,
    ObjectFrame,
    Observation,
    Plan,
    Planner,
    Scenario,
    TrackedObject,
)

BUDGET_MS = {"idm": 0.5, "pdm_closed": 4.0}  # with 60 agents on one core
AGENTS = (10, 30, 60, 100, 200, 300)
PROPOSALS = {15: (5, 3), 25: (5, 5), 45: (9, 5), 75: (15, 5), 105: (15, 7), 135: (15, 9)}  # speed fractions x paths
TICKS, WARM_UP = 40, 5
PUBLIC = Path(__file__).with_name("public_planners.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=60, help="of the table; the plot shows 10 to 300")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the growth with agents and proposals")
    parser.add_argument("--public", type=Path, metavar="DIR", help="where the public source trees are")
    parser.add_argument("--public-python", type=Path, metavar="FILE", help="default: DIR/venv/bin/python")
    arguments = parser.parse_args()
    world = crowded(arguments.agents)
    print(f"{arguments.agents} agents within 50 m, {TICKS - WARM_UP} ticks in closed loop, medians in ms\n")
    print(f"{'':26s} {'wall':>8s} {'CPU':>8s} {'95 %':>8s} {'budget':>8s}")
    ours = {name: ticks_ms(planner_factory(choose_planner(name)), world) for name in TEACHERS}
    for name, spent in ours.items():
        budget = f"{BUDGET_MS[name]:8.1f}" if name in BUDGET_MS and arguments.agents == 60 else f"{'':8s}"
        print(f"{name:26s} {spent.wall_ms:8.3f} {spent.cpu_ms:8.3f} {spent.slow_ms:8.3f} {budget}")
    if arguments.public is None:
        print("\nThe public code was not run: --public DIR")
    else:
        python = arguments.public_python or arguments.public / "venv" / "bin" / "python"
        for name, spent in public(arguments.public, python, world).items():
            times = (
                f"{spent.wall_ms / ours[name].wall_ms:.0f}x the wall, {spent.cpu_ms / ours[name].cpu_ms:.0f}x the CPU"
            )
            print(
                f"{'public ' + name:26s} {spent.wall_ms:8.3f} {spent.cpu_ms:8.3f} {spent.slow_ms:8.3f}   {times} time"
            )
    if arguments.plot is not None:
        by_agents = {
            name: [ticks_ms(planner_factory(choose_planner(name)), crowded(n)).cpu_ms for n in AGENTS]
            for name in TEACHERS
        }
        by_proposals = [ticks_ms(with_proposals(*shape), world).cpu_ms for shape in PROPOSALS.values()]
        print(f"\nCPU ms    agents {' '.join(f'{n:8d}' for n in AGENTS)}")
        for name, row in by_agents.items():
            print(f"{name:>16s} {' '.join(f'{ms:8.3f}' for ms in row)}")
        print(f"\nCPU ms proposals {' '.join(f'{n:8d}' for n in PROPOSALS)}")
        print(f"{'pdm_closed':>16s} {' '.join(f'{ms:8.3f}' for ms in by_proposals)}")
        plot(by_agents, by_proposals, arguments.agents, arguments.plot)
        print(f"\n{arguments.plot}")


# ---- what is measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Medians of a tick, and the wall time that 95 % of the ticks stay below."""

    wall_ms: float
    cpu_ms: float
    slow_ms: float

    @staticmethod
    def of(wall_s: list[float], cpu_s: list[float]) -> Spent:
        wall, cpu = wall_s[WARM_UP:], cpu_s[WARM_UP:]
        return Spent(wall_ms=1e3 * median(wall), cpu_ms=1e3 * median(cpu), slow_ms=1e3 * float(np.percentile(wall, 95)))


class Timed:
    """A planner with a watch."""

    def __init__(self, planner: Planner) -> None:
        self.planner, self.name = planner, planner.name
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        self.planner.initialize(mission, ego)

    def plan(self, observation: Observation) -> Plan:
        cpu, wall = time.process_time(), time.perf_counter()
        plan = self.planner.plan(observation)
        self.wall_s.append(time.perf_counter() - wall)
        self.cpu_s.append(time.process_time() - cpu)
        return plan


def ticks_ms(make: Callable[[], Planner], world: Scenario) -> Spent:
    simulate(world, make(), duration_s=0.2)  # compiles and fills caches
    timed = Timed(make())
    simulate(world, timed, duration_s=(TICKS - 1) * INTERVAL_S)
    return Spent.of(timed.wall_s, timed.cpu_s)


def with_proposals(fractions: int, paths: int) -> Callable[[], Any]:
    """PDM-Closed with so many target speeds on so many paths, up to 1 m to either side."""
    chosen = choose_planner("pdm_closed")
    speeds = tuple(float(v) for v in np.linspace(0.2, 1.0, fractions).round(4))
    sides = [float(v) for v in np.linspace(-1.0, 1.0, paths).round(4)]
    offsets = (0.0, *(side for side in sides if side != 0.0))
    return planner_factory(
        Chosen(name=chosen.name, config=replace(chosen.config, speed_fractions=speeds, offsets_m=offsets))
    )


def crowded(agents: int) -> Scenario:
    """A queue at a red light with exactly so many objects within 50 m of the ego, each at its own constant velocity.

    60 % vehicles along the road, 25 % pedestrians, 5 % bicycles, 10 % standing things; none in the ego's own lane but the
    scenario's own vehicles.
    """
    world = build(SyntheticConfig(families=("red_light_lead",)), 0)
    ego, rng = world.ego_log[HISTORY_TICKS], np.random.default_rng(agents)
    near = world.frames[HISTORY_TICKS]
    kept = near.ids[: min(len(near), agents)]
    extra = [_somebody(f"crowd-{k}", k, ego, rng) for k in range(agents - len(kept))]
    frames = []
    for tick, frame in enumerate(world.frames):
        since_s = (tick - HISTORY_TICKS) * INTERVAL_S
        there = [frame[frame.ids.index(track_id)] for track_id in kept if track_id in frame.ids]
        moved = [replace(o, x_m=o.x_m + since_s * o.vx_mps, y_m=o.y_m + since_s * o.vy_mps) for o in extra]
        frames.append(ObjectFrame.of([*there, *moved]))
    return replace(world, scenario_id=f"crowd-{agents}", frames=tuple(frames))


def _somebody(track_id: str, number: int, ego: EgoState, rng: np.random.Generator) -> TrackedObject:
    kind = ("vehicle",) * 12 + ("pedestrian",) * 5 + ("bicycle", "traffic_cone", "barrier")
    sizes = {
        "vehicle": (4.6, 1.9),
        "pedestrian": (0.6, 0.6),
        "bicycle": (1.8, 0.7),
        "traffic_cone": (0.4, 0.4),
        "barrier": (2.0, 0.5),
    }
    speeds = {"vehicle": 5.0, "pedestrian": 1.5, "bicycle": 4.0}
    what = kind[number % len(kind)]
    side = rng.uniform(3.2, 30.0) * (1.0 if rng.random() < 0.5 else -1.0)
    x, y = to_global(np.array([[rng.uniform(-35.0, 38.0), side]]), ego.pose)[0]
    turn = rng.uniform(-np.pi, np.pi) if what == "pedestrian" else (0.0 if side < 0.0 else np.pi)
    heading, speed = ego.heading_rad + turn, rng.uniform(0.0, speeds.get(what, 0.0))
    return TrackedObject(
        track_id=track_id, kind=what, x_m=float(x), y_m=float(y), heading_rad=heading, length_m=sizes[what][0],
        width_m=sizes[what][1], height_m=1.5, vx_mps=speed * float(np.cos(heading)), vy_mps=speed * float(np.sin(heading)),
        accel_mps2=0.0, indicator=0,
    )  # fmt: skip


# ---- the public code ------------------------------------------------------------------------------------------------


def public(folder: Path, python: Path, world: Scenario) -> dict[str, Spent]:
    """The public planners on the same scenario, in a process of their own; ends the program where that fails."""
    from nsdrive.scenarios.nuplan.write import write_scenario

    with tempfile.TemporaryDirectory() as root:
        written = write_scenario(world, Path(root), planner_factory(choose_planner("idm"))())
        call = [str(python), str(PUBLIC), str(folder.resolve()), root, written.token, str(TICKS)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(done.stderr, file=sys.stderr)
        sys.exit(f"The public code in {folder} did not run with {python}")
    return {name: Spent.of(spent["wall_s"], spent["cpu_s"]) for name, spent in json.loads(lines[-1]).items()}


# ---- the picture ----------------------------------------------------------------------------------------------------


def plot(by_agents: dict[str, list[float]], by_proposals: list[float], agents: int, out: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), sharey=False)
    for name, row in by_agents.items():
        left.plot(AGENTS, row, marker="o", label=name)
    left.set(xlabel="agents within 50 m", ylabel="CPU time of a tick [ms]", title="15 proposals (IDM has none)")
    left.legend(frameon=False)
    right.plot(list(PROPOSALS), by_proposals, marker="o", color="C1")
    right.set(xlabel="proposals", title=f"pdm_closed, {agents} agents")
    for axes in (left, right):
        axes.set_ylim(bottom=0.0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main()
