"""What tells one training's weights from another's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nsdrive.vla import fingerprint
from nsdrive.vla.fingerprint import fingerprint_of
from nsdrive.vla.trajectory_head import HeadShape, TrajectoryHead, save_head


def test_weights_are_told_apart_by_what_they_are_not_by_where_they_lie(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    own = fingerprint_of(model)
    assert own == fingerprint_of(tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    name, begin, end = next(one for one in tensors_of(weights) if "language_model.layers.0" in one[0])
    flip(weights, (begin + end) // 2, (begin + end) // 2 + 1)
    assert own != fingerprint_of(tmp_path / "copy"), f"one byte in the middle of {name}"
    assert fingerprint_of("owner/name") is None


def test_of_a_large_model_every_tensor_that_a_training_changes_tells_it_apart(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    for limit in ("WHOLE_MODEL", "WHOLE_TENSOR"):
        monkeypatch.setattr(fingerprint, limit, 0)
    monkeypatch.setattr(fingerprint, "PIECE", 2)
    own, weights = fingerprint_of(copy), copy / "model.safetensors"
    assert own == fingerprint_of(model)
    tensors = tensors_of(weights)
    assert len(tensors) > 20
    for name, begin, end in tensors:
        flip(weights, begin, end)
        assert fingerprint_of(copy) != own, name
        flip(weights, begin, end)
    assert fingerprint_of(copy) == own
    weights.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match=r"model\.safetensors is no whole safetensors file"):
        fingerprint_of(copy)


def test_a_trajectory_head_and_an_adapters_base_tell_weights_apart_too(model: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "models" / "base", tmp_path / "run" / "adapter"
    shutil.copytree(model, base)
    save_head(TrajectoryHead(HeadShape(kind="regression", hidden=128)), base)
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"as it is")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    told = [(fingerprint_of(base), fingerprint_of(adapter))]
    for changed in ("trajectory_head/head.safetensors", "model.safetensors"):
        size = (base / changed).stat().st_size
        flip(base / changed, size - 8, size)
        told.append((fingerprint_of(base), fingerprint_of(adapter)))
    (adapter / "adapter_model.safetensors").write_bytes(b"as it was")
    told.append((told[-1][0], fingerprint_of(adapter)))
    assert [len(set(each)) for each in zip(*told, strict=True)] == [3, 4]


def tensors_of(weights: Path) -> list[tuple[str, int, int]]:
    """Name, first and last byte in the file of each tensor."""
    written = weights.read_bytes()
    start = 8 + int.from_bytes(written[:8], "little")
    header = json.loads(written[8:start])
    spans = {name: one["data_offsets"] for name, one in header.items() if name != "__metadata__"}
    return [(name, start + begin, start + end) for name, (begin, end) in spans.items()]


def flip(path: Path, begin: int, end: int) -> None:
    """Some bit of every byte from begin to end; the second time they are as before."""
    with path.open("r+b") as file:
        file.seek(begin)
        held = bytes(byte ^ 1 for byte in file.read(end - begin))
        file.seek(begin)
        file.write(held)
