"""nuPlan's logs and maps with and without its devkit, in one run: listing, opening a scenario, one tick, a map query of 50 m.

OMP_NUM_THREADS=1 python benchmarks/nuplan_io.py [--public DIR] [--data ROOT --token HEX] [--objects N] [--seconds S] [--logs N]

Without --data (a folder with logs/ and maps/) a crowded scene is written in nuPlan's format, so many seconds long, and linked
under so many names for the listing. DIR holds the source tree `nuplan-devkit` and a python that can run it
(`venv/bin/python`, or --public-python).

    list         every tagged scenario of all logs
    open         a scenario with its map around it: ours has all its ticks then, the devkit's its first one
    scenario     the same, and every tick: what one rollout takes in all
    tick         the ego, all objects and all lights of one tick; ours are read with all others of the scenario
    map query    lanes, connectors and roadblocks of both kinds within 50 m

First is what the first costs in a fresh process, then the median of those after it; CPU is what was worked meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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

# Python looks beside this file first, and would take planners.py for the package of the same name.
sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]

from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource  # noqa: E402
from nsdrive.scenarios.nuplan.listing import Wanted, find_logs, list_logs  # noqa: E402
from nsdrive.scenarios.nuplan.log import read_extract  # noqa: E402
from nsdrive.scenarios.nuplan.write import lengthened, write_scenario  # noqa: E402
from nsdrive.scenarios.synthetic import SyntheticConfig, build  # noqa: E402
from nsdrive.world.roadblocks import roadblocks_of  # noqa: E402
from nsdrive.world.route import lanes_near  # noqa: E402
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, ObjectFrame, Scenario  # noqa: E402

PUBLIC = Path(__file__).with_name("public_nuplan_io.py")
REPEATS = {"list": 2, "open": 6, "scenario": 3, "tick": 6, "map query": 40}
RADIUS_M = 50.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="ROOT", help="a folder with logs/ and maps/")
    parser.add_argument("--token", help="of the scenario in --data; default: the first one")
    parser.add_argument("--objects", type=int, default=160, help="of the written scene, at every tick")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the written scene")
    parser.add_argument("--logs", type=int, default=1000, help="names that the written log is listed under")
    parser.add_argument("--public", type=Path, metavar="DIR", help="where the devkit's source tree is")
    parser.add_argument("--public-python", type=Path, metavar="FILE", help="default: DIR/venv/bin/python")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, many = arguments.data, arguments.data
        if root is None:
            root, many = written(Path(folder), arguments.objects, arguments.seconds, arguments.logs)
        token = arguments.token or Path(NuplanSource(config(root)).items()[0]).name
        ours, about = measured(root, many, token)
        print(about, "\n")
        print(f"{'ms':22s} {'first':>10s} {'then':>10s} {'CPU':>10s}")
        for name, spent in ours.items():
            print(f"{name:22s} {spent.first_ms:10.2f} {spent.then_ms:10.3f} {spent.cpu_ms:10.3f}")
        print(f"{'memory, MB':22s} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:10.0f}")
        if arguments.public is None:
            print("\nThe devkit was not run: --public DIR")
            return
        python = arguments.public_python or arguments.public / "venv" / "bin" / "python"
        theirs = public(arguments.public, python, root, many, token)
    for name, spent in theirs.items():
        ratio = f"{spent.then_ms / ours[name].then_ms:.2g}x, {spent.cpu_ms / ours[name].cpu_ms:.2g}x the CPU time"
        print(f"{'devkit: ' + name:22s} {spent.first_ms:10.2f} {spent.then_ms:10.3f} {spent.cpu_ms:10.3f}   {ratio}")


# ---- what is measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Wall time of the first, then medians of wall and CPU time of those after it."""

    first_ms: float
    then_ms: float
    cpu_ms: float

    @staticmethod
    def of(wall_s: list[float], cpu_s: list[float]) -> Spent:
        return Spent(
            first_ms=1e3 * wall_s[0],
            then_ms=1e3 * median(wall_s[1:] or wall_s),
            cpu_ms=1e3 * median(cpu_s[1:] or cpu_s),
        )

    def shared_by(self, parts: int) -> Spent:
        return Spent(first_ms=self.first_ms / parts, then_ms=self.then_ms / parts, cpu_ms=self.cpu_ms / parts)


def timed(work: Callable[[], Any], repeats: int) -> Spent:
    wall_s, cpu_s = [], []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
    return Spent.of(wall_s, cpu_s)


def config(root: Path) -> NuplanConfig:
    return NuplanConfig(path=str(root / "logs"), maps_path=str(root / "maps"), min_gap_s=0.0)


def measured(root: Path, many: Path, token: str) -> tuple[dict[str, Spent], str]:
    """Ours, and a sentence about the scenario."""
    source = NuplanSource(config(root))
    (item,) = [item for item in source.items() if item.endswith(token)]
    logs = find_logs(many / "logs")  # not `items()`, which refuses one log under many names
    spent = {"list": timed(lambda: list(list_logs(logs, Wanted())), REPEATS["list"])}
    spent["open"] = timed(lambda: source.load(item), REPEATS["open"])
    spent["scenario"] = spent["open"]
    world = source.load(item)
    log = root / "logs" / f"{item.rpartition('/')[0]}.db"
    spent["tick"] = timed(lambda: read_extract(log, token), REPEATS["tick"]).shared_by(world.n_ticks)
    ego, blocks = world.ego_log[HISTORY_TICKS], roadblocks_of(world.lane_map)
    spent["map query"] = timed(
        lambda: (lanes_near(world.lane_map, ego.x_m, ego.y_m, RADIUS_M), blocks.within(ego.x_m, ego.y_m, RADIUS_M)),
        REPEATS["map query"],
    )
    objects = np.mean([len(frame) for frame in world.frames])
    return spent, (
        f"{len(logs)} logs; the scenario: {world.n_ticks} ticks, {objects:.0f} objects at a time,"
        f" {len(world.lane_map.lanes)} lanes, of a log of {log.stat().st_size / 1e6:.0f} MB"
    )


def public(folder: Path, python: Path, root: Path, many: Path, token: str) -> dict[str, Spent]:
    """The devkit on the same files, in a process of its own; ends the program where that fails."""
    call = [str(python), str(PUBLIC), str(folder.resolve()), str(root), str(many), token, json.dumps(REPEATS)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(done.stderr, file=sys.stderr)
        sys.exit(f"The devkit in {folder} did not run with {python}")
    return {name: Spent.of(spent["wall_s"], spent["cpu_s"]) for name, spent in json.loads(lines[-1]).items()}


# ---- what it is measured on -----------------------------------------------------------------------------------------


def written(folder: Path, objects: int, seconds: float, logs: int) -> tuple[Path, Path]:
    """A crowded scene as a log with its map, and the same log under many names."""
    one, many = folder / "one", folder / "many"
    log = write_scenario(crowded(objects, seconds), one).log
    (many / "logs").mkdir(parents=True)
    (many / "maps").symlink_to(one / "maps")
    for number in range(logs):
        os.link(log, many / "logs" / f"log-{number:05d}.db")
    return one, many


def crowded(objects: int, seconds: float) -> Scenario:
    """A queue at a red light, its objects again and again aside of the road until there are so many."""
    world = build(SyntheticConfig(families=("red_light_lead",)), 0)
    world = lengthened(world, max(world.n_ticks - 1, round(seconds / INTERVAL_S)))
    return replace(
        world, scenario_id=f"crowd-{objects}", frames=tuple(_filled(frame, objects) for frame in world.frames)
    )


def _filled(frame: ObjectFrame, objects: int) -> ObjectFrame:
    rows = np.arange(objects) % len(frame)
    copy = np.arange(objects) // len(frame)
    boxes = frame.boxes[rows]
    boxes[:, 1] += 7.0 * copy
    return replace(
        frame.take(rows), ids=tuple(f"{frame.ids[r]}+{c}" for r, c in zip(rows, copy, strict=True)), boxes=boxes
    )


if __name__ == "__main__":
    main()
