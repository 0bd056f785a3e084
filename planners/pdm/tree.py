"""The order in which the public code meets what is in a corridor: that of GEOS's sort-tile-recursive tree.

Of several leads that all touch the ego's box (distance 0) it takes the first one met, and their speeds may differ; so the
order is part of what a proposal is. Leutenegger, Lopez, Edgington, "STR: a simple and efficient algorithm for R-tree
packing", ICDE 1997: sort by x, cut into slices, sort each by y, fill nodes of ten; the same again with the nodes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

CAPACITY = 10  # tuplan_garage PDMOccupancyMap: node_capacity


@njit(cache=True)
def tree_ranks(bounds, ranks):
    """Fill ranks (N,) with the position of each of N bounds (N, 4: x0, y0, x1, y1) in the order of a walk over the tree."""
    total = bounds.shape[0]
    # Nodes of all levels, leaves first; `first` and `last` are a node's children, `order` their places in the level below.
    room = 2 * total + 8
    box = np.empty((room, 4))
    first, last = np.zeros(room, dtype=np.int64), np.zeros(room, dtype=np.int64)
    order = np.arange(room)
    box[:total] = bounds
    begin, count, used = 0, total, total
    while count > 1:
        parents = (count + CAPACITY - 1) // CAPACITY
        slices = int(np.ceil(np.sqrt(float(parents))))
        size = (count + slices - 1) // slices
        level = order[begin : begin + count]
        _sort(level, box, 0)
        for start in range(0, count, size):
            stop = min(start + size, count)
            _sort(level[start:stop], box, 1)
            for child in range(start, stop, CAPACITY):
                end = min(child + CAPACITY, stop)
                first[used], last[used] = begin + child, begin + end
                box[used, 0], box[used, 1], box[used, 2], box[used, 3] = np.inf, np.inf, -np.inf, -np.inf
                for c in range(child, end):
                    node = level[c]
                    box[used, 0], box[used, 1] = min(box[used, 0], box[node, 0]), min(box[used, 1], box[node, 1])
                    box[used, 2], box[used, 3] = max(box[used, 2], box[node, 2]), max(box[used, 3], box[node, 3])
                used += 1
        begin, count = begin + count, used - begin - count
    stack = np.empty(room, dtype=np.int64)
    depth, met = 1, 0
    stack[0] = used - 1
    while depth > 0 and total > 0:
        depth -= 1
        node = stack[depth]
        if node < total:
            ranks[node] = met
            met += 1
            continue
        for child in range(last[node] - 1, first[node] - 1, -1):
            stack[depth] = order[child]
            depth += 1


@njit(cache=True)
def _sort(level, box, axis):
    """Sort node numbers by the middle of their bounds along an axis, in place; insertion sort, there are few."""
    for i in range(1, level.shape[0]):
        node = level[i]
        key, j = box[node, axis] + box[node, axis + 2], i - 1
        while j >= 0 and box[level[j], axis] + box[level[j], axis + 2] > key:
            level[j + 1] = level[j]
            j -= 1
        level[j + 1] = node
