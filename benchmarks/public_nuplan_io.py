"""Runs in a python of the devkit's own, started by nuplan_io.py: times it on one scenario and a folder of logs, prints JSON.

python public_nuplan_io.py SOURCES ROOT MANY TOKEN REPEATS

SOURCES holds nuplan-devkit, ROOT and MANY the folders logs and maps. Nothing of nsdrive is imported here, and nothing of the
devkit is changed.
"""

import json
import logging
import os
import sqlite3
import sys
import time
import warnings
from pathlib import Path

sources, root, many, token, repeats = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5]
sys.path[:0] = [str(sources / "nuplan-devkit")]
for variable in ("NUPLAN_DATA_ROOT", "NUPLAN_MAPS_ROOT", "NUPLAN_EXP_ROOT"):
    os.environ.setdefault(variable, str(root))
warnings.filterwarnings("ignore")  # of the devkit, on newer libraries than it was written for
logging.disable(logging.WARNING)

from nuplan.common.maps.maps_datatypes import SemanticMapLayer  # noqa: E402
from nuplan.planning.scenario_builder.nuplan_db.nuplan_scenario_builder import NuPlanScenarioBuilder  # noqa: E402
from nuplan.planning.scenario_builder.nuplan_db.nuplan_scenario_utils import ScenarioMapping  # noqa: E402
from nuplan.planning.scenario_builder.scenario_filter import ScenarioFilter  # noqa: E402
from nuplan.planning.utils.multithreading.worker_sequential import Sequential  # noqa: E402

LAYERS = [
    SemanticMapLayer.LANE, SemanticMapLayer.LANE_CONNECTOR, SemanticMapLayer.ROADBLOCK, SemanticMapLayer.ROADBLOCK_CONNECTOR,
]  # fmt: skip


def types():
    """Of the first log; nuPlan's builder takes every row of a log where no type is given."""
    with sqlite3.connect(f"file:{next((root / 'logs').rglob('*.db'))}?mode=ro", uri=True) as log:
        return sorted(row[0] for row in log.execute("select distinct type from scenario_tag"))


def found(folder, tokens=None):
    builder = NuPlanScenarioBuilder(
        data_root=str(folder / "logs"), map_root=str(root / "maps"), sensor_root=None, db_files=None,
        map_version="nuplan-maps-v1.0", include_cameras=False, max_workers=1, verbose=False,
        scenario_mapping=ScenarioMapping(dict.fromkeys(KINDS, (15.0, -3.0)), 0.5),
    )  # fmt: skip
    wanted = ScenarioFilter(
        scenario_types=KINDS, scenario_tokens=tokens, log_names=None, map_names=None, num_scenarios_per_type=None,
        limit_total_scenarios=None, timestamp_threshold_s=None, ego_displacement_minimum_m=None, expand_scenarios=False,
        remove_invalid_goals=False, shuffle=False,
    )  # fmt: skip
    return builder.get_scenarios(wanted, Sequential())


def opened():
    (scenario,) = found(root, [token])
    scenario.get_number_of_iterations(), scenario.get_route_roadblock_ids(), scenario.get_mission_goal()
    tick(scenario, 0)
    query(scenario)
    return scenario


def whole():
    scenario = opened()
    for k in range(scenario.get_number_of_iterations()):
        tick(scenario, k)


def tick(scenario, k):
    scenario.get_ego_state_at_iteration(k)
    scenario.get_tracked_objects_at_iteration(k)
    list(scenario.get_traffic_light_status_at_iteration(k))


def query(scenario):
    scenario.map_api.get_proximal_map_objects(scenario.initial_ego_state.center.point, 50.0, LAYERS)


def timed(work, times):
    wall_s, cpu_s = [], []
    for k in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        work(k)
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
    return {"wall_s": wall_s, "cpu_s": cpu_s}


KINDS = types()
TIMES = json.loads(repeats)
spent = {"open": timed(lambda k: opened(), TIMES["open"])}
spent["scenario"] = timed(lambda k: whole(), TIMES["scenario"])
world = opened()
spent["tick"] = timed(lambda k: tick(world, k + 1), TIMES["tick"] * 10)
spent["map query"] = timed(lambda k: query(world), TIMES["map query"])
spent["list"] = timed(lambda k: found(many), 1)
print(json.dumps(spent))
