"""Broken logs: whatever is wrong with the files, one line says so, and nothing but a ScenarioError is raised."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from argoverse2_builder import write_forecasting_scenario, write_sensor_log
from pyarrow import feather, parquet

from nsdrive.scenarios.argoverse2 import Argoverse2Config, Argoverse2Source
from nsdrive.scenarios.source import ScenarioError

ANNOTATIONS, POSES, MAP = (
    "annotations.feather",
    "city_SE3_egovehicle.feather",
    "map/log_map_archive_log____PIT_city_47896.json",
)
TRACKS, TRACKS_MAP = "scenario_mf.parquet", "log_map_archive_mf.json"
FILES = [("log", ANNOTATIONS), ("log", POSES), ("log", MAP), ("mf", TRACKS), ("mf", TRACKS_MAP)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    write_sensor_log(root / "log", n_sweeps=80)
    write_forecasting_scenario(root / "mf", n_steps=80)
    return root


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "copy")
    return tmp_path / "copy"


def load(root: Path, log: str) -> Any:
    return Argoverse2Source(Argoverse2Config(path=str(root))).load(log)


def complaint(root: Path, log: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(root, log)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


def change_table(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a table after `change` has edited its columns, as numpy arrays, in place."""
    module_read = parquet.read_table if path.suffix == ".parquet" else feather.read_table
    columns = {name: np.array(values, dtype=object) for name, values in module_read(path).to_pydict().items()}
    change(columns)
    table = pa.table({name: pa.array(values.tolist()) for name, values in columns.items()})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        feather.write_feather(table, path)


def put(name: str, row: int, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda columns: columns[name].__setitem__(row, value)


@pytest.mark.parametrize(("log", "file"), FILES)
def test_a_truncated_file_is_named(copy, log, file):
    data = (copy / log / file).read_bytes()
    for length in (0, 1, 7, 8, len(data) // 3, len(data) // 2, len(data) - 9, len(data) - 1):
        (copy / log / file).write_bytes(data[:length])
        assert Path(file).name in complaint(copy, log)


@pytest.mark.parametrize(("log", "file"), FILES)
def test_a_missing_file_is_named_and_the_log_is_still_listed(copy, log, file):
    (copy / log / file).unlink()
    complaint(copy, log)
    assert log in Argoverse2Source(Argoverse2Config(path=str(copy))).items()


@pytest.mark.parametrize(("log", "file"), [pair for pair in FILES if not pair[1].endswith("json")])
def test_every_needed_column_is_missed_by_name(copy, log, file):
    path = copy / log / file
    data = path.read_bytes()
    change_table(path, lambda columns: None)
    unneeded = {
        "num_interior_pts",
        "observed",
        "object_category",
        "scenario_id",
        "num_timestamps",
        "focal_track_id",
        "city",
    }
    names = (parquet.read_table if path.suffix == ".parquet" else feather.read_table)(path).column_names
    for name in names:
        path.write_bytes(data)
        change_table(path, lambda columns, name=name: columns.pop(name))
        if name in unneeded:
            load(copy, log)
        else:
            assert f"column '{name}' is missing" in complaint(copy, log)


@pytest.mark.parametrize(
    ("log", "file", "change", "said"),
    [
        ("log", ANNOTATIONS, put("tx_m", 5, float("nan")), "'tx_m' has 1 NaN"),
        ("log", ANNOTATIONS, put("tx_m", 5, None), "'tx_m' has 1 empty"),
        ("log", ANNOTATIONS, put("tx_m", 5, 1e30), "'tx_m' holds 1e+30"),
        ("log", ANNOTATIONS, put("qw", 5, 0.1), "quaternion in row 5"),
        ("log", ANNOTATIONS, put("length_m", 5, 0.0), "no length"),
        ("log", ANNOTATIONS, put("timestamp_ns", 700, 2**62), "no boxes for"),
        ("log", ANNOTATIONS, lambda c: c["timestamp_ns"].__iadd__(10**12), "no ego pose"),
        ("log", ANNOTATIONS, lambda c: c.update({k: np.append(v, v[3]) for k, v in c.items()}), "two boxes"),
        ("log", ANNOTATIONS, lambda c: c.update({k: v[:0] for k, v in c.items()}), "holds no rows"),
        ("log", ANNOTATIONS, lambda c: c.update({k: v[:200] for k, v in c.items()}), "needs at least 71"),
        ("log", ANNOTATIONS, lambda c: c.update(tx_m=c["category"]), "'tx_m' holds string"),
        ("log", ANNOTATIONS, lambda c: c.update(category=c["tx_m"]), "'category' holds double"),
        ("log", POSES, lambda c: c.update({k: v[::-1] for k, v in c.items()}), "does not increase at row 1"),
        ("log", POSES, lambda c: c.update({k: np.delete(v, slice(400, 500)) for k, v in c.items()}), "no ego pose"),
        ("log", POSES, lambda c: c["tx_m"].__iadd__(500.0), "on this map"),
        ("mf", TRACKS, put("heading", 5, float("inf")), "'heading' has 1 NaN or inf"),
        ("mf", TRACKS, put("velocity_x", 5, 1e4), "'velocity_x' holds 10000"),
        ("mf", TRACKS, put("timestep", 5, -1), "timesteps from -1"),
        ("mf", TRACKS, put("timestep", 5, 6), "two rows"),
        ("mf", TRACKS, put("track_id", -3, "other"), "'AV', the ego"),
        ("mf", TRACKS, lambda c: c.update({k: v[c["timestep"] < 50] for k, v in c.items()}), "needs at least 71"),
    ],
)
def test_wrong_values_are_explained(copy, log, file, change, said):
    change_table(copy / log / file, change)
    assert said in complaint(copy, log)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: [], "a JSON list"),
        (lambda m: m | {"lane_segments": []}, "'lane_segments'"),
        (lambda m: m | {"lane_segments": {}}, "no lane segments"),
        (lambda m: m | {"lane_segments": {"1": 5}}, "'lane_segments'"),
        (lambda m: m["lane_segments"]["1"].pop("left_lane_boundary") and m, "lane segment 1 left_lane_boundary"),
        (lambda m: m["lane_segments"]["1"].update(left_lane_boundary=[{"x": 1.0, "y": 2.0}]), "at least 2"),
        (lambda m: m["lane_segments"]["1"].update(left_lane_boundary=[{"x": 1, "y": "2"}] * 2), "numbers for x and y"),
        (lambda m: m["lane_segments"]["1"].update(left_lane_boundary=[{"x": float("nan"), "y": 1}] * 2), "not finite"),
        (lambda m: m["lane_segments"]["1"].update(left_lane_boundary=[[1, 2], [3, 4]]), "points with x and y"),
        (lambda m: m["lane_segments"]["1"].update(lane_type="CANAL"), "lane_type 'CANAL'"),
        (lambda m: m["lane_segments"]["1"].update(is_intersection="no"), "is_intersection 'no'"),
        (lambda m: m["lane_segments"]["1"].update(successors=None), "no list of successors"),
        (lambda m: m["lane_segments"]["1"].update(successors=[{}]), "has id {}"),
        (lambda m: m["lane_segments"]["1"].update(left_neighbor_id=1.5), "has id 1.5"),
        (lambda m: m["lane_segments"]["1"].update(id=2), "id 2 appears twice"),
        (lambda m: m["pedestrian_crossings"]["50"].pop("edge2") and m, "pedestrian crossing 50 edge2"),
        (lambda m: m["drivable_areas"]["90"].update(area_boundary=[{"x": 0, "y": 0}] * 5), "at least 3"),
    ],
)
@pytest.mark.parametrize(("log", "file"), [("log", MAP), ("mf", TRACKS_MAP)])
def test_a_map_of_the_wrong_shape_is_explained(copy, log, file, change, said):
    content = json.loads((copy / log / file).read_text())
    changed = change(content)
    (copy / log / file).write_text(json.dumps(content if changed is None else changed))
    assert said in complaint(copy, log)


@pytest.mark.parametrize(("log", "file"), FILES)
def test_flipped_bytes_never_raise_anything_else(copy, log, file):
    path = copy / log / file
    good = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng([2, len(file)])
    for _ in range(25):
        bad = good.copy()
        where = rng.integers(0, len(bad), size=int(rng.integers(1, 6)))
        bad[where] = rng.integers(0, 256, size=len(where))
        path.write_bytes(bad.tobytes())
        with contextlib.suppress(ScenarioError):
            load(copy, log)
