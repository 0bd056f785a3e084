"""Where each token stands for the rotary embedding of Qwen's models (M-RoPE): time, row and column."""

from __future__ import annotations

import numpy as np
import torch


def token_positions(
    input_ids: torch.Tensor, grid: torch.Tensor | None, *, image_token_id: int, merge_size: int
) -> torch.Tensor:
    """(3, L) long: of a text token three times its place, of an image token its image's time, its row and its column.

    input_ids (L,); grid (images, 3): t, h, w in patches. As the models' own `get_rope_index` for still pictures: an image
    begins at the place of its first token, and the text goes on after as many places as its longer side has tokens. Computed
    here, in a worker, it costs the device nothing; the model's own walks through the tokens one by one, and on a GPU waits for
    each image.
    """
    length = len(input_ids)
    positions = np.empty((3, length), dtype=np.int64)
    is_image = (input_ids == image_token_id).numpy()
    at = place = 0  # the next token, and the place that it takes
    for _, high, wide in [] if grid is None else grid.tolist():
        rows, columns = high // merge_size, wide // merge_size
        first = at + int(np.argmax(is_image[at:]))
        end = first + rows * columns
        positions[:, at:first] = place + np.arange(first - at)
        place += first - at
        positions[0, first:end] = place
        positions[1, first:end] = place + np.repeat(np.arange(rows), columns)
        positions[2, first:end] = place + np.tile(np.arange(columns), rows)
        at, place = end, place + max(rows, columns)
    positions[:, at:] = place + np.arange(length - at)
    return torch.from_numpy(positions)
