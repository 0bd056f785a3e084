"""The rows of a dataset's shards, as the VLA reads them.

    rows = Rows(open_dataset("out/data"), "train")
    rows[0]                                             # Row: the images' files, the prompt, the answer

Rows are read as they are, as any `messages` trainer would: only ids, images and messages matter here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sized
from copy import copy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsdrive.dataset import PERCEPTION, Dataset
from nsdrive.vla.prompt import IMAGE_TOKEN, N_WAYPOINTS, TASK
from nsdrive.world.types import FloatArray

_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")[,}]')


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """A JPEG or PNG file's bytes, read already: of a packed data set. name: for messages."""

    name: str
    data: bytes

    def file(self) -> BytesIO:
        return BytesIO(self.data)


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """What the VLA needs of a sample. images: files, their bytes, or pictures (a model that drives has no files).

    waypoints_ego_m (10, 2) and ego_now: what the answer and the prompt say of them as numbers, None where the sample has none.
    """

    sample_id: str
    level: str
    images: tuple[Path | StoredImage | Image.Image, ...]
    prompt: str
    answer: str
    waypoints_ego_m: FloatArray | None = None
    ego_now: tuple[float, float, float, float] | None = None  # vx, vy in m/s, ax, ay in m/s2, ego frame at the anchor


class Rows:
    """The rows of one split, in order, read on demand: memory holds a few numbers a row, whatever the traces weigh."""

    def __init__(self, dataset: Dataset, split: str, *, level: str | None = None) -> None:
        self._dataset, self.split = dataset, split
        self._shards = dataset.shards(split)
        self._where: list[tuple[int, int]] = []  # shard, byte offset
        sizes: list[tuple[int, int]] = []  # bytes of text, images
        for shard, path in enumerate(self._shards):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is named in the manifest but is not there")
            with path.open("rb") as lines:
                offset = 0
                for line in lines:
                    if level is None or _level_of(line, path) == level:
                        self._where.append((shard, offset))
                        sizes.append(_size_of(line))
                    offset += len(line)
        self._sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> Row:
        row = self.raw(index)
        return read_row(self._dataset, row)

    def only(self, indices: NDArray[np.int64]) -> Rows:
        """These rows, in this order."""
        chosen = copy(self)
        chosen._where, chosen._sizes = [self._where[k] for k in indices], self._sizes[indices]
        return chosen

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every index once, in any order."""
        return rng.permutation(len(self))

    def text_bytes(self) -> NDArray[np.int64]:
        """(N,): how long each row's text is."""
        return self._sizes[:, 0]

    def image_counts(self) -> NDArray[np.int64]:
        """(N,): how many images each row has."""
        return self._sizes[:, 1]

    def id_of(self, index: int) -> str:
        """The sample's id. Our shards have it first, so that no whole line is parsed for it."""
        shard, offset = self._where[index]
        with self._shards[shard].open("rb") as file:
            file.seek(offset)
            found = _ID.match(file.read(512))
        return str(json.loads(found[1]) if found else self.raw(index)["id"])

    def raw(self, index: int) -> dict[str, Any]:
        """The JSON object of a row. Raises ValueError naming a broken line."""
        shard, offset = self._where[index]
        with self._shards[shard].open("rb") as file:
            file.seek(offset)
            line = file.readline()
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{self._shards[shard].name}, row {index} is not JSON ({error})") from None
        if not isinstance(row, dict) or "id" not in row:
            raise ValueError(f"{self._shards[shard].name}, row {index} is no sample: it has no id")
        return row


def require_rows(rows: Sized) -> None:
    """ValueError where there is nothing to learn from."""
    if len(rows) == 0:
        raise ValueError("No samples to train on (check the dataset and train_level)")


def evenly_spread(n: int, most: int) -> list[int]:
    """Up to `most` of n rows' numbers, the first and the last among them."""
    return sorted({round(k) for k in np.linspace(0, n - 1, min(most, n))})


class ImageSource(Protocol):
    """Where a row's images are."""

    def image_path(self, relative: str) -> Path | StoredImage: ...


def read_row(dataset: ImageSource, row: dict[str, Any]) -> Row:
    """A `Row`, or ValueError naming the sample and what is wrong with it."""
    sample_id = str(row["id"])
    try:
        turns = row["messages"]
        if [turn["role"] for turn in turns] != ["user", "assistant"]:
            raise ValueError("messages must be one user and one assistant turn")
        prompt, answer = (turn["content"] for turn in turns)
        if not isinstance(prompt, str) or not isinstance(answer, str) or not answer:
            raise ValueError("message contents must be text, and the answer not empty")
        if row["trace_level"] not in TASK and row["trace_level"] != PERCEPTION:
            raise ValueError(f"no trace level '{row['trace_level']}'. Known: {', '.join(TASK)}")
        images = tuple(dataset.image_path(str(name)) for name in row["images"])
        if prompt.count(IMAGE_TOKEN) != len(images):
            raise ValueError(f"{prompt.count(IMAGE_TOKEN)} {IMAGE_TOKEN} in the prompt, {len(images)} images")
        numbers = row.get("nsdrive") or {}
        waypoints, ego_now = _waypoints(numbers), _ego_now(numbers)
    except KeyError as error:
        raise ValueError(f"Sample {sample_id} lacks the field {error}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:  # a stranger's numbers may be anything
        raise ValueError(f"Sample {sample_id}: {error}") from None
    return Row(
        sample_id=sample_id,
        level=str(row["trace_level"]),
        images=images,
        prompt=prompt,
        answer=answer,
        waypoints_ego_m=waypoints,
        ego_now=ego_now,
    )


def _waypoints(numbers: Mapping[str, Any]) -> FloatArray | None:
    if numbers.get("waypoints_ego_m") is None:
        return None
    points = np.array(numbers["waypoints_ego_m"], dtype=np.float64)
    if points.shape != (N_WAYPOINTS, 2) or not np.isfinite(points).all():
        raise ValueError(f"waypoints_ego_m must be {N_WAYPOINTS} finite points [x, y]")
    return points


def _ego_now(numbers: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """Of the last row of the ego's history, which is the anchor."""
    history = numbers.get("ego_history")
    if not history:
        return None
    last = history[-1]
    vx, vy, ax, ay = (float(last[name]) for name in ("vx_mps", "vy_mps", "ax_mps2", "ay_mps2"))
    if not all(math.isfinite(value) for value in (vx, vy, ax, ay)):
        raise ValueError("the ego's velocity or acceleration is not finite")
    return vx, vy, ax, ay


def _size_of(line: bytes) -> tuple[int, int]:
    """Bytes of its messages and how many images they name. Found, not parsed: it is asked of every line at every start."""
    start = line.find(b'"messages": ')
    end = line.find(b'"nsdrive": ', start)  # our shards have the numbers last
    messages = line[max(start, 0) : end if end > start else len(line)]
    return len(messages), messages.count(IMAGE_TOKEN.encode())


def _level_of(line: bytes, shard: Path) -> str:
    try:
        return str(json.loads(line)["trace_level"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{shard.name} holds a line that is no sample") from None
