"""Any predictions file, read in one pass: ours, the published release's, a JSON list of either, or a file of probes.

    file = read_file(Path("predictions.jsonl"))
    file.ids[k], file.errors[k]        # the sample that row k answers, and None or why it is no complete answer
    file.waypoints_ego_m[k]            # (10, 2), zeros where it is none
    file.printed_m[k, :file.n_printed[k]]      # the points that the release's script would read
    file.prediction(k).text            # read again from the file: texts are not kept

    ours       {"id", "text", "waypoints_ego_m", "error", "seconds"}            one object a line
    release    {"orig_idx", "id", "predict", "label", maybe "error"}            one object a line, or a JSON list of them; without
                                                                                orig_idx and id: named by its place
    items      {"id", "messages": [..., {"role": "assistant", "content": ...}]} the answer is the assistant's turn

A stranger writes these files. A line that is no row (cut off, not JSON, without an id or an answer) is counted by its number
and its reason, and never stops the reading, unless no line is a row. Where `waypoints_ego_m` is absent the text is read.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from eval.open_loop.release_format import OPENS, complete_points, printed_points
from nsdrive.dataset import Prediction, split_lines
from nsdrive.vla.displacement import usable
from nsdrive.vla.prompt import MAX_ABS_M, N_WAYPOINTS
from nsdrive.world.types import FloatArray

UNUSABLE = "waypoints_ego_m is not 10 finite [x, y] of a believable size"
NO_ANSWER = "it has no 'text', 'predict', 'waypoints_ego_m' or assistant's turn"
ERROR_SHOWN = 300  # characters of a file's own error kept: it may be a megabyte
_NO_POINTS = [0.0] * (2 * N_WAYPOINTS)


@dataclass(frozen=True, kw_only=True)
class BrokenLine:
    """A line (or an item of a list), counted from 1, that is no row, and why."""

    number: int
    reason: str


@dataclass(kw_only=True, eq=False)
class PredictionsFile:
    """Every row of a file, in its order; R rows. spans: where each row's JSON lies, (first byte, length)."""

    path: Path
    ids: list[str] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)  # the release's orig_idx, -1 without one
    errors: list[str | None] = field(default_factory=list)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    spans: list[tuple[int, int]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of the line, or of the item of a list, counted from 1
    broken: list[BrokenLine] = field(default_factory=list)
    waypoints: array[float] = field(default_factory=lambda: array("d"))  # 20 a row
    printed: array[float] = field(
        default_factory=lambda: array("d")
    )  # 20 a row: the points as printed, zeros after them
    counts: array[int] = field(default_factory=lambda: array("b"))  # of points as printed
    labels: array[float] = field(default_factory=lambda: array("d"))  # the same of the row's own `label`
    label_counts: array[int] = field(default_factory=lambda: array("b"))  # -1 where a row has no label

    @cached_property
    def waypoints_ego_m(self) -> FloatArray:
        """(R, 10, 2)."""
        return np.array(self.waypoints).reshape(-1, N_WAYPOINTS, 2)

    @cached_property
    def printed_m(self) -> FloatArray:
        """(R, 10, 2)."""
        return np.array(self.printed).reshape(-1, N_WAYPOINTS, 2)

    @cached_property
    def n_printed(self) -> FloatArray:
        """(R,) integers, 0 to 10."""
        return np.array(self.counts, dtype=np.int64)

    @cached_property
    def label_m(self) -> FloatArray:
        """(R, 10, 2): the points of each row's own `label`, as printed."""
        return np.array(self.labels).reshape(-1, N_WAYPOINTS, 2)

    @cached_property
    def n_label(self) -> FloatArray:
        """(R,) integers, 0 to 10, -1 where the row brings no label."""
        return np.array(self.label_counts, dtype=np.int64)

    def prediction(self, row: int) -> Prediction:
        """A row with its text, read again from the file."""
        error = self.errors[row]
        return Prediction(
            sample_id=self.ids[row],
            text=self.text(row),
            waypoints_ego_m=self.waypoints_ego_m[row] if error is None else None,
            error=error,
            seconds=self.seconds[row],
        )

    def text(self, row: int) -> str:
        return read_text(self.path, self.spans[row])


def read_file(path: Path, *, only_free: bool = False) -> PredictionsFile:
    """Read a file. only_free: the file is one of probes; take its free answers.

    Raises FileNotFoundError, and ValueError where no line is a row.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"No predictions file {path}. Make one: nsdrive predict --model DIR --data DATASET --out {path}"
        )
    found = PredictionsFile(path=path)
    for number, start, line in _pieces(path):
        row = _decode(line)
        if isinstance(row, str):
            found.broken.append(BrokenLine(number=number, reason=row))
            continue
        if not only_free and row.kind is not None and row.sample is not None:
            raise ValueError(f"{path} holds answers to probes: give it with --probes")
        if only_free:
            if row.kind != "free":
                continue
            row.id = row.sample
        if row.id is None and row.orig_idx is None and (row.messages is not None or row.predict is not None):
            row.id = str(number - 1)  # the release names an item without an id by its place
        problem = _add(found, row, number, (start, len(line)))
        if problem is not None:
            found.broken.append(BrokenLine(number=number, reason=problem))
    if not found.ids and found.broken:
        first = found.broken[0]
        raise ValueError(
            f"{path}: none of its {len(found.broken)} lines is a prediction; line {first.number}: {first.reason}. A row has an id "
            "and waypoints_ego_m, text or predict"
        )
    return found


def read_text(path: Path, span: tuple[int, int]) -> str:
    """The answer's text of the row that lies at a span of a file, '' where it has none."""
    with path.open("rb") as file:
        file.seek(span[0])
        row = _decode(file.read(span[1]))
    if isinstance(row, str):
        raise ValueError(f"{path} changed while it was read")
    return _text_of(row) or ""


# ---- one row --------------------------------------------------------------------------------------------------------


class _Turn(msgspec.Struct):
    role: str = ""
    content: str = ""


class _Row(msgspec.Struct):
    """What is read of a row; the names are the files' own."""

    id: str | int | None = None
    text: str | None = None
    predict: str | None = None
    label: str | None = None
    waypoints_ego_m: list[tuple[float, float]] | None = None
    error: str | None = None
    seconds: float | None = None
    orig_idx: int | None = None
    messages: list[_Turn] | None = None
    sample: str | None = None
    kind: str | None = None


_FAST = msgspec.json.Decoder(_Row)


def _decode(line: bytes) -> _Row | str:
    """The row, or why it is none. Rows whose fields have unexpected types take the slow way, field by field."""
    try:
        return _FAST.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({str(error)[:80]})"
    return _tolerant(raw) if isinstance(raw, dict) else "not a JSON object"


def _tolerant(raw: dict[str, Any]) -> _Row:
    """A row of any types: what is not what it should be becomes that row's error."""
    row = _Row(error=None if raw.get("error") is None else str(raw["error"])[:ERROR_SHOWN])
    row.id = raw.get("id") if isinstance(raw.get("id"), (str, int)) and not isinstance(raw.get("id"), bool) else None
    row.orig_idx = raw.get("orig_idx") if isinstance(raw.get("orig_idx"), int) else None
    for name in ("text", "predict", "label", "sample", "kind"):
        value = raw.get(name)
        if value is None or isinstance(value, str):
            setattr(row, name, value)
        elif name in ("text", "predict"):
            setattr(row, name, "")
            row.error = row.error or f"'{name}' is no text"
    seconds = raw.get("seconds")
    row.seconds = float(seconds) if isinstance(seconds, float) else None
    turns = raw.get("messages")
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        row.messages = [_Turn(role=str(turn.get("role")), content=str(turn.get("content"))) for turn in turns]
    if raw.get("waypoints_ego_m") is not None:
        try:
            points = np.array(raw["waypoints_ego_m"], dtype=float)
        except (TypeError, ValueError, OverflowError):
            points = None
        row.waypoints_ego_m = points.tolist() if points is not None and usable(points) else []
    return row


def _text_of(row: _Row) -> str | None:
    if row.predict is not None:
        return row.predict
    if row.text is not None:
        return row.text
    for turn in row.messages or ():
        if turn.role == "assistant":
            return turn.content
    return None


def _add(found: PredictionsFile, row: _Row, number: int, span: tuple[int, int]) -> str | None:
    """Append a row; returns why it is none."""
    index = -1 if row.orig_idx is None else row.orig_idx
    if row.id is None and index < 0:
        return "it has no id"
    text, points, error = _text_of(row), row.waypoints_ego_m, row.error
    if text is None and points is None and error is None:
        return NO_ANSWER
    text = text or ""
    printed = printed_points(text)
    if points is not None:
        if error is None and not _believable(points):
            error = UNUSABLE
        if not printed and error is None and OPENS not in text:  # waypoints alone: as an answer would print them
            printed = [(round(x, 2), round(y, 2)) for x, y in points]
    elif error is None:
        points, error = complete_points(text)
    found.ids.append(str(index) if row.id is None else writable(str(row.id)))
    found.indices.append(index)
    found.errors.append(None if error is None else writable(error[:ERROR_SHOWN]))
    found.seconds.append(row.seconds or 0.0)
    found.spans.append(span)
    found.numbers.append(number)
    found.waypoints.extend(_NO_POINTS if error is not None or points is None else chain.from_iterable(points))
    _put(found.printed, found.counts, printed)
    if row.label is None:
        found.labels.extend(_NO_POINTS)
        found.label_counts.append(-1)
    else:
        _put(found.labels, found.label_counts, printed_points(row.label))
    return None


def _believable(points: list[tuple[float, float]]) -> bool:
    """As `displacement.usable`, of ten pairs of floats that need no array."""
    return len(points) == N_WAYPOINTS and all(-MAX_ABS_M <= v <= MAX_ABS_M for point in points for v in point)


def _put(numbers: array[float], counts: array[int], points: list[tuple[float, float]]) -> None:
    numbers.extend(chain.from_iterable(points))
    numbers.extend(_NO_POINTS[2 * len(points) :])
    counts.append(len(points))


def writable(text: str) -> str:
    """A lone surrogate is legal in JSON and in no file of ours."""
    return text.encode("utf-8", "replace").decode("utf-8")


# ---- the pieces of a file -------------------------------------------------------------------------------------------


def _pieces(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, first byte, JSON) of every line with something in it, or of every item of a JSON list."""
    with path.open("rb") as file:
        head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        if head.startswith(b"["):
            file.seek(0)
            yield from _items(file.read())
            return
    start = 0
    for number, line in enumerate(split_lines(path), start=1):  # bytes: only b"\n" ends a line, whatever a model writes
        json_start = 3 if start == 0 and line.startswith(b"\xef\xbb\xbf") else 0
        if line and not line.isspace():
            yield number, start + json_start, line[json_start:]
        start += len(line) + 1


def _items(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The items of a JSON list, up to where it breaks off.

    Read as Latin-1, one character a byte: the brackets, quotes and commas of JSON are ASCII and stay where they are.
    """
    text, scanner, white = data.decode("latin-1"), json.JSONDecoder(), " \t\r\n"
    position, number = text.index("[") + 1, 0
    while True:
        while position < len(text) and text[position] in white + ",":
            position += 1
        if position >= len(text) or text[position] == "]":
            return
        number += 1
        try:
            _, end = scanner.raw_decode(text, position)
        except (ValueError, RecursionError):
            yield number, position, data[position : position + 200]  # no JSON: the rest of the list is one broken piece
            return
        yield number, position, data[position:end]
        position = end
