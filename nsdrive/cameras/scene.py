"""From tracked objects, signals and scenery to instances of meshes, ready to be drawn around the ego.

A stop lamp is lit while a vehicle brakes (below -0.3 m/s2) and while it stands in a lane, in the lane's direction: a
driver at rest in traffic has a foot on the brake, a parked car beside the lane does not. An indicator is lit when the
frame says so. Colours follow from the track id, so that an object looks the same at every tick.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from nsdrive.cameras.mesh import LEFT_LAMP, PAINT, RIGHT_LAMP, STOP_LAMP, Color, Mesh, MeshBuilder
from nsdrive.cameras.people import (
    HAIRS,
    LEGS,
    N_PHASES,
    PEDAL_M,
    SHIRTS,
    SKINS,
    STANDING,
    STRIDE_M,
    cyclist_mesh,
    pedestrian_mesh,
)
from nsdrive.cameras.rasteriser import F32, N_SLOTS, Instances, Meshes
from nsdrive.cameras.scenery import Prop
from nsdrive.cameras.shading import FACADE
from nsdrive.cameras.street import (
    BOARD_M,
    HOUSING,
    barrier_mesh,
    cone_mesh,
    crate_mesh,
    lamps_mesh,
    signal_mesh,
    stop_sign_mesh,
    work_sign_mesh,
)
from nsdrive.cameras.vehicles import PAINTS, vehicle_mesh, vehicle_shape
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import OBJECT_KINDS, FloatArray, ObjectFrame

BRAKES_BELOW_MPS2 = -0.3  # chosen by us: engine drag alone is weaker
STANDS_BELOW_MPS = 0.3
TRUNK_M = 0.5  # what a tree or a post takes of the ground
IN_LANE_M, IN_LANE_RAD = 1.1, 0.8  # how far off a centerline a car still stands in traffic; chosen by us

STOP_ON, STOP_OFF = (255, 38, 28, 1.0), (112, 14, 16, 0.0)
BLINKS, BLINKS_NOT = (255, 168, 16, 1.0), (150, 84, 30, 0.0)
LAMPS_ON = {"red": (255, 44, 34, 1.0), "yellow": (255, 204, 20, 1.0), "green": (40, 250, 120, 1.0)}
LAMPS_OFF = {"red": (62, 18, 16, 0.0), "yellow": (62, 50, 14, 0.0), "green": (14, 54, 28, 0.0)}
CRATES: tuple[tuple[Color, Color], ...] = (
    ((78, 104, 84), (52, 70, 58)),
    ((112, 116, 122), (72, 76, 82)),
    ((156, 124, 84), (118, 92, 62)),
)


class Scene:
    """Instances collected for one drawing: `put` them, then `instances`."""

    def __init__(self) -> None:
        self._meshes: list[Mesh] = []
        self._rows: list[tuple[float, ...]] = []  # x, y, heading, scale x, y, z
        self._palettes: list[Sequence[Sequence[float]]] = []
        self._things: list[int] = []
        self.names: list[str] = []  # of things, by index

    def put(
        self,
        mesh: Mesh,
        x_m: float,
        y_m: float,
        heading_rad: float,
        scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
        palette: Sequence[Sequence[float]] = (),
        name: str | None = None,
    ) -> None:
        """A mesh on the ground. palette: rgb, or rgb and glow, by slot. name: what an image that shows it reports."""
        self._meshes.append(mesh)
        self._rows.append((x_m, y_m, heading_rad, *scale))
        self._palettes.append(palette)
        self._things.append(-1 if name is None else len(self.names))
        if name is not None:
            self.names.append(name)

    def instances(self) -> Placed:
        """What was put, as columns."""
        rows = np.array(self._rows, dtype=float).reshape(-1, 6)
        palette = np.zeros((len(rows), N_SLOTS, 4), dtype=np.float32)
        for i, colors in enumerate(self._palettes):
            for slot, color in enumerate(colors):
                palette[i, slot, : len(color)] = color
        return Placed(self._meshes, rows, palette, np.array(self._things, dtype=np.int32))


class Placed:
    """Instances as columns, in the frame in which they were put. rows (N, 6): x, y, heading, scale x, y, z."""

    def __init__(self, meshes: list[Mesh], rows: FloatArray, palette: F32, things: np.ndarray) -> None:
        self.meshes, self.rows, self.palette, self.things = meshes, rows, palette, things
        self.heading = np.stack([np.cos(rows[:, 2]), np.sin(rows[:, 2])], axis=1)
        half = np.array([mesh.half_size for mesh in meshes]).reshape(-1, 3) * rows[:, 3:6]
        middle = np.array([mesh.centre for mesh in meshes]).reshape(-1, 3) * rows[:, 3:6]
        walls = np.array([(mesh.material == FACADE).any() for mesh in meshes], dtype=bool)
        self.footprint_m = np.where(walls[:, None], half[:, :2] + 0.3, TRUNK_M)  # half length and half width
        c, s = self.heading.T
        self.radius = np.sqrt((half**2).sum(axis=1))
        self.centre = np.stack(
            [rows[:, 0] + c * middle[:, 0] - s * middle[:, 1], rows[:, 1] + s * middle[:, 0] + c * middle[:, 1], middle[:, 2]],
            axis=1,
        )  # fmt: skip


def standing_clear(scenery: Placed, objects: Placed) -> np.ndarray:
    """(N,) whether a piece of scenery stands where no tracked object is: a real log knows better than our houses."""
    offset = objects.rows[None, :, :2] - scenery.rows[:, None, :2]
    c, s = scenery.heading[:, None, 0], scenery.heading[:, None, 1]
    along, across = c * offset[..., 0] + s * offset[..., 1], c * offset[..., 1] - s * offset[..., 0]
    half = scenery.footprint_m[:, None]
    return np.asarray(~((np.abs(along) < half[..., 0]) & (np.abs(across) < half[..., 1])).any(axis=1))


def gather(
    groups: Sequence[tuple[Placed, np.ndarray | None]], offset: FloatArray, range_m: float
) -> tuple[Meshes, Instances]:
    """Instances within the range of the ego, nearest first, and the meshes that they need.

    groups: instances, and which of them to draw if not all. offset (2,): what to add to come to ego coordinates.
    """
    meshes: list[Mesh] = []
    columns: list[tuple[np.ndarray, ...]] = []
    for placed, shown in groups:
        in_range = np.hypot(*(placed.centre[:, :2] + offset).T) < range_m + placed.radius
        near = np.flatnonzero(in_range if shown is None else in_range & shown)
        meshes += [placed.meshes[i] for i in near]
        shift = np.array([*offset, 0.0])
        position = np.column_stack([placed.rows[near, :2], np.zeros(len(near))]) + shift
        columns.append((position, placed.heading[near], placed.rows[near, 3:6], placed.centre[near] + shift,
                        placed.radius[near], placed.palette[near], placed.things[near]))  # fmt: skip
    position, heading, scale, centre, radius, palette, thing = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    order = np.argsort(np.hypot(centre[:, 0], centre[:, 1]) - radius, kind="stable")
    library, first = _library(meshes)
    counts = np.array([len(mesh) for mesh in meshes], dtype=np.int32)
    return library, Instances(
        first=first[order],
        n_faces=counts[order],
        position=position[order].astype(np.float32),
        heading=heading[order].astype(np.float32),
        scale=scale[order].astype(np.float32),
        centre=centre[order].astype(np.float32),
        radius=radius[order].astype(np.float32),
        palette=np.ascontiguousarray(palette[order]),
        thing=thing[order],
    )


def _library(meshes: Sequence[Mesh]) -> tuple[Meshes, np.ndarray]:
    """The distinct meshes end to end, and where each of `meshes` begins."""
    distinct = {id(mesh): mesh for mesh in meshes}
    starts, at = {}, 0
    for key, mesh in distinct.items():
        starts[key], at = at, at + len(mesh)
    if not distinct:  # the kernels want arrays of their rank
        builder = MeshBuilder()
        builder.face([(0, 0, 0), (1, 0, 0), (0, 1, 0)])
        distinct = {0: builder.build()}
    library = Meshes(*(np.concatenate([getattr(mesh, name) for mesh in distinct.values()]) for name in Meshes._fields))
    return library, np.array([starts[id(mesh)] for mesh in meshes], dtype=np.int32)


class TrafficLanes:
    """Where cars stand in traffic: points along every centerline with their direction."""

    def __init__(self, lane_map: LaneMap) -> None:
        lines = [lane.centerline for lane in lane_map.lanes.values() if len(lane.centerline) >= 2]
        self._points = np.concatenate([line[:-1] for line in lines] or [np.zeros((0, 2))])
        steps = np.concatenate([np.diff(line, axis=0) for line in lines] or [np.zeros((0, 2))])
        self._heading = np.arctan2(steps[:, 1], steps[:, 0])

    def hold(self, x_m: float, y_m: float, heading_rad: float) -> bool:
        """Whether a car at this pose stands in a lane, looking along it."""
        near = np.hypot(self._points[:, 0] - x_m, self._points[:, 1] - y_m) < IN_LANE_M
        return bool((np.cos(self._heading[near] - heading_rad) > np.cos(IN_LANE_RAD)).any())


def place_objects(frame: ObjectFrame, traffic: TrafficLanes, origin_m: FloatArray) -> tuple[Placed, list[str]]:
    """Every tracked object about `origin_m` (2,), and the names that `thing` indexes: the track ids."""
    scene = Scene()
    for row, track_id in enumerate(frame.ids):
        x, y, heading, length, width = (float(v) for v in frame.boxes[row])
        if not np.isfinite([x, y, heading, length, width]).all():
            continue
        kind = OBJECT_KINDS[int(frame.kinds[row])]
        length, width = max(0.1, length), max(0.1, width)
        height = float(frame.heights_m[row])
        height = height if np.isfinite(height) and height > 0.1 else 1.5
        mesh, turn, scale, palette = _looks(
            kind, frame, row, track_id, (x, y, heading), (length, width, height), traffic
        )
        scene.put(mesh, x - origin_m[0], y - origin_m[1], heading + turn, scale, palette, track_id)
    return scene.instances(), scene.names


def place_signals(
    lane_map: LaneMap, lights: Mapping[str, str], origin_m: FloatArray, first_thing: int
) -> tuple[Placed, list[str]]:
    """Poles, heads and lamps of all signals in the state of their connectors, and the lamps' names "signal:<id>"."""
    scene = Scene()
    for signal in lane_map.signals:
        state = next((lights[c] for c in signal.connector_ids if c in lights), "unknown")
        where = (signal.x_m - origin_m[0], signal.y_m - origin_m[1], signal.heading_rad)
        lamps: list[tuple[float, ...]] = [
            LAMPS_ON[color] if color == state else LAMPS_OFF[color] for color in ("red", "yellow", "green")
        ]
        lamps += [(0.5 * lamp[0], 0.5 * lamp[1], 0.5 * lamp[2], 1.0) if lamp[3] else (*HOUSING, 0.0) for lamp in lamps]
        arm = round(signal.arm_m, 1)
        scene.put(signal_mesh(arm), *where)
        scene.put(lamps_mesh(arm), *where, palette=lamps, name=f"signal:{signal.signal_id}")
    placed = scene.instances()
    placed.things[placed.things >= 0] += first_thing
    return placed, scene.names


def place_scenery(props: Sequence[Prop], lane_map: LaneMap, origin_m: FloatArray) -> Placed:
    """What never moves nor changes: props, already about the origin, and stop signs."""
    scene = Scene()
    for prop in props:
        scene.put(prop.mesh, prop.x_m, prop.y_m, prop.heading_rad, prop.scale, prop.colors)
    for x, y, heading in lane_map.stop_signs:
        scene.put(stop_sign_mesh(), x - origin_m[0], y - origin_m[1], heading)
    return scene.instances()


_Looks = tuple[Mesh, float, tuple[float, float, float], list[tuple[float, ...]]]


def _looks(
    kind: str,
    frame: ObjectFrame,
    row: int,
    track_id: str,
    pose: tuple[float, float, float],
    size: tuple[float, float, float],
    traffic: TrafficLanes,
) -> _Looks:
    """Mesh, turn against the box's heading, scale and palette of an object."""
    (x, y, heading), (length, width, height) = pose, size
    number = zlib.crc32(track_id.encode())
    speed = float(frame.speeds_mps[row])
    along = x * np.cos(heading) + y * np.sin(heading)
    if kind == "bicycle" or (kind == "vehicle" and width < 1.15 and length < 3.0):
        phase = int(along / PEDAL_M * N_PHASES) % N_PHASES
        palette = _clothes(number)
        palette.append(_pick(PAINTS, number // 7))
        return (
            cyclist_mesh(phase),
            0.0,
            (np.clip(length / 1.75, 0.7, 1.4), 1.0, np.clip(height / 1.75, 0.75, 1.2)),
            palette,
        )
    if kind == "vehicle":
        long, wide, tall = (max(0.5, round(v, 1)) for v in size)
        mesh = vehicle_mesh(vehicle_shape(long, wide, tall, number), long, wide, tall)
        accel = float(frame.accels_mps2[row])
        stands = speed < STANDS_BELOW_MPS and traffic.hold(x, y, heading)
        indicator = int(frame.indicators[row])
        looks: dict[int, tuple[float, ...]] = {
            PAINT: _pick(PAINTS, number),
            STOP_LAMP: STOP_ON if accel < BRAKES_BELOW_MPS2 or stands else STOP_OFF,
            LEFT_LAMP: BLINKS if indicator > 0 else BLINKS_NOT,
            RIGHT_LAMP: BLINKS if indicator < 0 else BLINKS_NOT,
        }
        return mesh, 0.0, (length / long, width / wide, height / tall), [looks[slot] for slot in range(4)]
    if kind == "pedestrian":
        phase = STANDING if speed < STANDS_BELOW_MPS else int(along / STRIDE_M * N_PHASES) % N_PHASES
        tall = float(np.clip(height / 1.75, 0.5, 1.2))
        return pedestrian_mesh(phase), 0.0, (tall, tall, tall), _clothes(number)
    if kind == "traffic_cone":
        tall = float(np.clip(height / 0.75, 0.5, 1.6))
        return cone_mesh(), 0.0, (tall, tall, tall), []
    if kind == "barrier":
        turn = 0.0 if length >= width else np.pi / 2
        return barrier_mesh(), turn, (max(length, width) / BOARD_M, 1.0, float(np.clip(height, 0.6, 1.8))), []
    if kind == "czone_sign":
        tall = float(np.clip(height / 1.9, 0.5, 1.5))
        return work_sign_mesh(), 0.0, (tall, tall, tall), []
    side, lid = CRATES[number % len(CRATES)]
    return crate_mesh(), 0.0, (length, width, height), [side, lid]


def _clothes(number: int) -> list[tuple[float, ...]]:
    """By slot: SHIRT, TROUSERS, HAIR, SKIN."""
    return [_pick(SHIRTS, number), _pick(LEGS, number // 11), _pick(HAIRS, number // 59), _pick(SKINS, number // 307)]


def _pick(table: Sequence[Color], number: int) -> tuple[float, ...]:
    return table[number % len(table)]
