"""Image files of logs, opened with suspicion: found inside their folder only, whole, and of the size that was calibrated."""

from __future__ import annotations

import io
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsdrive.scenarios.source import ScenarioError

MAX_BYTES = 64 * 2**20  # chosen by us: a hundred times an image of a log


def nearest(times: NDArray[np.int64], wanted: NDArray[np.int64], within: int) -> NDArray[np.int64]:
    """(T,): for each wanted time the row of the nearest of `times` (N,), -1 where none lies within so much.

    `times` are in order; all in one unit. Of two equally near ones the earlier is taken.
    """
    if not len(times):
        return np.full(len(wanted), -1)
    after = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    row = np.where(np.abs(times[after] - wanted) < np.abs(times[before] - wanted), after, before)
    return np.where(np.abs(times[row] - wanted) <= within, row, -1)


def file_inside(root: Path, name: Any) -> Path:
    """The file of that name below a folder. ScenarioError, one line, where the name or a link leads out of it."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or any(sign in name for sign in "\\:\0"):
        raise ScenarioError(f"{root}: {str(name)[:120]!r} is no name of a file inside this folder")
    path = root.joinpath(*parts)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise ScenarioError(f"{path}: is a link that leads out of {root}")
    return path


def read_jpeg(path: Path, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """(H, W, 3) RGB. ScenarioError, one line, where the file is missing, cut off, no JPEG, or of another size."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ScenarioError(f"{path}: is larger than {MAX_BYTES >> 20} MB")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ScenarioError(f"{path}: is missing") from error
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
    return decoded(str(path), data, width_px, height_px)


def decoded(
    owner: str, data: bytes, width_px: int, height_px: int, formats: tuple[str, ...] = ("JPEG",)
) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of an image's bytes; `owner` names it in a ScenarioError, one line, where they are no such image."""
    import cv2
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=formats) as header:  # before it is decoded: a size may be a lie
            size, kind = header.size, header.format
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ScenarioError(f"{owner}: is not a {' or '.join(formats)}") from error
    if size != (width_px, height_px):
        raise ScenarioError(f"{owner}: is {size[0]} x {size[1]} pixels, its calibration says {width_px} x {height_px}")
    if kind == "JPEG" and not data.rstrip(b"\0").endswith(b"\xff\xd9"):  # end of image; else the rest would be grey
        raise ScenarioError(f"{owner}: is cut off (is its download complete?)")
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or image.shape != (height_px, width_px, 3):
        raise ScenarioError(f"{owner}: cannot be decoded")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
