"""A real Argoverse 2 log, converted by py123d itself, is the same scenario as our own reader makes of it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("py123d")  # the extra `logs`

import cv2
import pyarrow as pa
from py123d.api.map.arrow.arrow_map_writer import ArrowMapWriter
from py123d.api.scene.arrow.arrow_log_writer import ArrowLogWriter
from py123d.api.scene.arrow.utils.log_writer_config import LogWriterConfig
from py123d.parser.av2.av2_sensor_parser import Av2SensorParser
from pyarrow import feather

from nsdrive.scenarios.argoverse2 import Argoverse2Config, Argoverse2Source
from nsdrive.scenarios.py123d import Py123dConfig, Py123dSource

SHARED = Path(os.environ.get("NSDRIVE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
LOGS = sorted(path.parent for path in (SHARED / "data" / "argoverse2" / "sensor").glob("*/calibration"))


def complete(log: Path, folder: Path) -> None:
    """A copy of a log with what py123d's converter insists on and the fragment lacks: sweeps, and an image of each camera."""
    shutil.copytree(log, folder)
    stamps = np.unique(feather.read_table(log / "annotations.feather")["timestamp_ns"].to_numpy())
    poses = feather.read_table(log / "city_SE3_egovehicle.feather")["timestamp_ns"].to_numpy()
    (folder / "sensors" / "lidar").mkdir(parents=True)
    for stamp in stamps:
        feather.write_feather(pa.table({"x": [0.0]}), str(folder / "sensors" / "lidar" / f"{stamp}.feather"))
    for row in feather.read_table(log / "calibration" / "intrinsics.feather").to_pylist():
        images = folder / "sensors" / "cameras" / row["sensor_name"]
        images.mkdir(parents=True)
        grey = np.full((row["height_px"], row["width_px"], 3), 90, dtype=np.uint8)
        assert cv2.imwrite(str(images / f"{poses[poses >= stamps[0]][0]}.jpg"), grey)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # py123d 0.7 with pandas 3.1
@pytest.mark.parametrize("log", [pytest.param(folder, id=folder.name[:8]) for folder in LOGS])
def test_a_real_log_is_the_same_through_py123d_as_through_our_own_reader(log, tmp_path):
    complete(log, tmp_path / "av2" / "val" / log.name)
    converted = tmp_path / "py123d"
    parser = Av2SensorParser(splits=["av2-sensor_val"], av2_sensor_root=tmp_path / "av2")
    writer = ArrowLogWriter(LogWriterConfig(infer_ego_dynamics=True), converted / "logs", converted / "sensors")
    for log_parser in parser.get_log_parsers():
        assert writer.reset(log_parser.get_log_metadata())
        for sync in log_parser.iter_modalities_sync():
            writer.write_sync(sync)
        writer.close()
    maps = ArrowMapWriter(True, converted / "maps", converted / "logs")
    for map_parser in parser.get_map_parsers():
        assert maps.reset(map_parser.get_map_metadata())
        for thing in map_parser.iter_map_objects():
            maps.write_map_object(thing)
        maps.close()

    source = Py123dSource(
        Py123dConfig(path=str(converted), sensor_path=str(tmp_path / "av2"), scene_s=None, map_margin_m=None)
    )
    (item,) = source.items()
    ours, own = source.load(item), Argoverse2Source(Argoverse2Config(path=str(log))).load(".")
    assert ours.n_ticks == own.n_ticks
    for mine, other in zip(ours.ego_log, own.ego_log, strict=True):
        assert mine.pose == pytest.approx(other.pose, abs=0.05)
        assert mine.speed_mps == pytest.approx(other.speed_mps, abs=0.05)
    for mine, other in zip(ours.frames, own.frames, strict=True):
        assert mine.ids == other.ids
        assert mine.kinds.tolist() == other.kinds.tolist()
        assert mine.boxes == pytest.approx(other.boxes, abs=1e-3)
    assert set(ours.lane_map.lanes) == set(own.lane_map.lanes)
    for lane_id, mine in ours.lane_map.lanes.items():
        other = own.lane_map.lanes[lane_id]
        assert (mine.is_connector, mine.lane_type, mine.turn) == (other.is_connector, other.lane_type, other.turn)
        assert (set(mine.incoming), set(mine.outgoing)) == (set(other.incoming), set(other.outgoing))
        assert (mine.left_neighbor, mine.right_neighbor) == (other.left_neighbor, other.right_neighbor)
        assert (mine.left_marking, mine.right_marking) == (other.left_marking, other.right_marking)
    blocks = [{lane.roadblock_id: lane_id for lane_id, lane in m.lanes.items()} for m in (ours.lane_map, own.lane_map)]
    assert sorted(blocks[0].values()) == sorted(blocks[1].values())
    assert ours.unknown == own.unknown

    cameras = {camera.name: camera for camera in source.cameras(item)}
    assert {"CAM_F0", "CAM_L0", "CAM_R0", "CAM_L1", "CAM_R1", "CAM_L2", "CAM_R2"} <= set(cameras)
    front = cameras["CAM_F0"]
    assert front.read(0).shape == (front.height_px, front.width_px, 3) == (2048, 1550, 3)
    assert front.read(9) is None
    assert front.rotation @ [0.0, 0.0, 1.0] == pytest.approx([1.0, 0.0, 0.0], abs=0.05)
