"""How long an image takes: milliseconds per image and core, and against OpenCV filling the same number of polygons.

    python benchmarks/render.py [--family red_light] [--rig 8] [--repeat 5]

Quote the ratio: a shared machine is not the same twice.
"""

from __future__ import annotations

import argparse
import statistics
import time

import cv2
import numpy as np

from nsdrive.cameras.render import Renderer, encode_jpeg
from nsdrive.cameras.rig import make_rig
from nsdrive.scenarios.synthetic import SyntheticConfig, build

PAINTER_POLYGONS = 2000  # about what a busy view of ours holds after culling
PAINTER_EDGE_PX = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="red_light")
    parser.add_argument("--rig", default="8")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    rig = make_rig(arguments.rig)
    scenario = build(SyntheticConfig(families=(arguments.family,), n_scenarios=1), 0)
    tick = min(20, len(scenario.ego_log) - 1)
    scene = (scenario.ego_log[tick].pose, scenario.frames[tick], scenario.lights[tick], rig)

    def world() -> Renderer:
        return Renderer(scenario.lane_map, scenario.scenery_seed)

    renderer = world()
    views = renderer.render(*scene)  # compiles, or loads what was compiled
    prepare_ms = median_ms(world, arguments.repeat)
    image_ms = median_ms(lambda: renderer.render(*scene), arguments.repeat) / len(rig.cameras)
    jpeg_ms = median_ms(lambda: [encode_jpeg(v.rgb) for v in views.values()], arguments.repeat) / len(rig.cameras)
    painter_ms = median_ms(painter(), arguments.repeat)
    print(f"{scenario.scenario_id}: {len(scenario.frames[tick])} objects, rig {rig.name}, 640 x 360, one core")
    print(f"prepare a map      {prepare_ms:8.1f} ms, once per scenario")
    print(f"draw an image      {image_ms:8.1f} ms")
    print(f"encode a JPEG      {jpeg_ms:8.1f} ms")
    print(f"OpenCV painter     {painter_ms:8.1f} ms for {PAINTER_POLYGONS} antialiased quads")
    print(f"ratio              {image_ms / painter_ms:8.2f}")


def median_ms(what: object, repeat: int) -> float:
    """Processor time of a call, which other work on the machine disturbs least."""
    assert callable(what)
    times = []
    for _ in range(repeat):
        start = time.process_time()
        what()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def painter() -> object:
    """A function that fills quads on an image of the same size, back to front, the simplest renderer there is."""
    rng = np.random.default_rng(0)
    middle = rng.uniform([0, 0], [640, 360], (PAINTER_POLYGONS, 1, 2))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * PAINTER_EDGE_PX / 2
    quads = np.round((middle + corners) * 16).astype(np.int32)
    colors = rng.integers(0, 255, (PAINTER_POLYGONS, 3)).tolist()
    image = np.zeros((360, 640, 3), dtype=np.uint8)

    def paint() -> None:
        for quad, color in zip(quads, colors, strict=True):
            cv2.fillConvexPoly(image, quad, color, cv2.LINE_AA, 4)

    return paint


if __name__ == "__main__":
    main()
