"""Which training made a model's weights: two folders of the same weights have one fingerprint, wherever they lie.

fingerprint_of("out/run/model")     # "2727406618d7f62a"
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from nsdrive.dataset import from_json
from nsdrive.vla.model import ADAPTER, adapter_base
from nsdrive.vla.question_form import model_folder
from nsdrive.vla.trajectory_head import FOLDER

# Bytes of weights that are read to tell them apart, chosen by us: a small model whole, of a larger one the small tensors, and
# of each other PIECES from its first byte to its last. A training changes a tensor that learns nearly everywhere.
WHOLE_MODEL, WHOLE_TENSOR = 64 << 20, 16 << 10
PIECES, PIECE = 4, 4 << 10
LONGEST_HEADER = 100_000_000  # bytes, of the safetensors library


def fingerprint_of(model: str | Path) -> str | None:
    """What tells the weights of a model's folder, an adapter's with its base, from those of another training, in 16 letters;
    None of a hub id.

    ValueError for a file that is not what safetensors wrote.
    """
    folder = Path(model_folder(str(model)))
    if not folder.is_dir():
        return None
    told, seen = hashlib.sha256(), list[Path]()
    while folder.is_dir() and folder not in seen:
        seen.append(folder)
        paths = sorted([*folder.glob("*.safetensors"), *folder.glob(f"{FOLDER}/*.safetensors")])
        is_small = sum(path.stat().st_size for path in paths) <= WHOLE_MODEL
        for path in paths:
            told.update(f"{path.name} {path.stat().st_size}\n".encode())
            for piece in [path.read_bytes()] if is_small else _pieces_of(path):
                told.update(piece)
        if not (folder / ADAPTER).is_file():
            break
        folder = Path(adapter_base(folder))
    else:
        told.update(str(folder).encode())  # a base that is not at hand is told by its name
    return told.hexdigest()[:16]


def _pieces_of(path: Path) -> Iterator[bytes]:
    """The header of a safetensors file, then something of every tensor. ValueError, one line, where it has no such header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= LONGEST_HEADER else b""
        try:
            tensors = [one for name, one in from_json(header).items() if name != "__metadata__"]
            spans = sorted((int(begin), int(end)) for begin, end in (one["data_offsets"] for one in tensors))
            if not all(0 <= begin <= end for begin, end in spans):
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"{path} is no whole safetensors file: copy or download it again") from None
        yield header
        for begin, end in spans:
            is_small = end - begin <= WHOLE_TENSOR
            step = 0 if is_small else (end - begin - PIECE) / (PIECES - 1)
            for k in range(1 if is_small else PIECES):
                file.seek(8 + length + begin + round(k * step))
                yield file.read(end - begin if is_small else PIECE)
