"""Areas of the ground joined into one, whatever their corners."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

SNAP_M = 1e-6  # chosen by us: far below what any map is known to


def union_of(areas: Iterable[BaseGeometry]) -> BaseGeometry:
    """The union of polygons (global frame or any other, metres).

    GEOS computes in doubles first, which fails on rare sets of nearly touching corners ("TopologyException"); those are
    computed again on a grid of SNAP_M, which always succeeds.
    """
    shapes = np.array(list(areas), dtype=object)
    try:
        return shapely.union_all(shapes)
    except shapely.GEOSException:
        return shapely.union_all(shapes, grid_size=SNAP_M)
