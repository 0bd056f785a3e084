"""Numbers out of a pickle without unpickling: a stranger's pickle can run any code, so nothing here resolves a name.

nuPlan's logs keep their cameras' calibration as pickled lists. A pickle is a program for a small stack machine; this is
that machine without the instructions that import, call or build objects. Only a list's own subclasses in nuPlan's code
(Translation, Rotation, ...) are known by their names, and taken for the lists that they are.
"""

from __future__ import annotations

import io
import pickletools
from typing import Any

import numpy as np

from nsdrive.world.types import FloatArray

MAX_BYTES = 4096  # chosen by us: sixteen times what nine numbers take
LISTS = frozenset(  # subclasses of list without anything of their own; nuplan/database/common/data_types.py, v1.2
    f"nuplan.database.common.data_types {name}" for name in ("Translation", "Rotation", "CameraIntrinsic")
)
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_NAMES = ("GLOBAL", "SHORT_BINUNICODE", "BINUNICODE")
_OTHERS = (
    *("PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "STACK_GLOBAL", "NEWOBJ"),
    *("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
)
_ADMITTED = {op.code: op for op in pickletools.opcodes if op.name in (*_NUMBERS, *_NAMES, *_OTHERS)}
_MARK = object()


class _Refused(ValueError):
    """Says what is wrong with a pickle."""


class _Name(str):
    """A module and what it holds: a name, never looked up."""


def pickled_numbers(data: Any, shape: tuple[int, ...]) -> FloatArray:
    """An array of this shape, one or two axes, out of a pickled list or tuple of finite numbers (or of such lists).

    ValueError, a few words, where the bytes are anything else. No code of the pickle runs and nothing is imported.
    """
    if not isinstance(data, bytes):
        raise ValueError(f"is {type(data).__name__}, expected a pickled list of numbers")
    if len(data) > MAX_BYTES:
        raise ValueError(f"is a pickle of {len(data)} bytes, expected a short list of numbers")
    try:
        value = _interpreted(io.BytesIO(data))
    except _Refused:
        raise
    except (ValueError, IndexError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError("is not a whole pickle of numbers") from error
    rows = value if len(shape) == 2 else [value]
    widths = [len(row) if isinstance(row, list) else None for row in rows] if isinstance(rows, list) else []
    if widths != [shape[-1]] * (shape[0] if len(shape) == 2 else 1):
        raise ValueError(f"is no list of {' x '.join(map(str, shape))} numbers")
    if not all(type(number) in (int, float) for row in rows for number in row):
        raise ValueError("holds something that is no number")
    try:
        numbers = np.array([[float(number) for number in row] for row in rows]).reshape(shape)
    except OverflowError as error:
        raise ValueError("holds a number that is not finite") from error
    if not np.isfinite(numbers).all():
        raise ValueError("holds a number that is not finite")
    return numbers


def _interpreted(file: io.BytesIO) -> Any:
    """What the program leaves on the stack: numbers, texts, names and lists of them (a tuple becomes a list)."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = max(place for place, item in enumerate(stack) if item is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    while True:
        code = file.read(1).decode("latin-1")
        if code not in _ADMITTED:
            raise _Refused(_refused(code))
        op = _ADMITTED[code]
        try:
            argument: Any = op.arg.reader(file) if op.arg is not None else None
        except ValueError as error:
            raise _Refused("is a pickle that is cut off or broken") from error
        match op.name:
            case "STOP":
                if len(stack) != 1:
                    raise _Refused("is a pickle of nothing or of several things")
                return stack[0]
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append([])
            case "LIST" | "TUPLE":
                stack.append(since_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(op.name[-1])
                items = [stack.pop() for _ in range(count)]
                stack.append(items[::-1])
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "GLOBAL":
                stack.append(_Name(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_Name(f"{module} {name}"))
            case "NEWOBJ":
                arguments, name = stack.pop(), stack.pop()
                if name not in LISTS or arguments != []:
                    raise _Refused(f"would make a {str(name)[:60]!r}, which is no list of numbers")
                stack.append([])
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case _:
                stack.append(argument)


def _refused(code: str) -> str:
    names = {op.code: op.name for op in pickletools.opcodes}
    if not code:
        return "is a pickle that is cut off"
    return f"is a pickle that does more than list numbers ({names.get(code, repr(code))})"
