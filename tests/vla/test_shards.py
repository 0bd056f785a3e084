from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from vla_fixtures import make_dataset

from nsdrive.dataset import MANIFEST, open_dataset
from nsdrive.vla.data import shards
from nsdrive.vla.data.batch import Collator
from nsdrive.vla.data.encoding import encode
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.data.schedule import Schedule
from nsdrive.vla.data.shards import PackedRows, open_rows, pack
from nsdrive.vla.model import load_processor


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Any:
    return load_processor(tiny_folder, min_pixels=1024, max_pixels=4096)


@pytest.fixture(scope="module")
def packed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "packed"
    summary = pack(dataset, out, samples_per_shard=5)
    assert str(summary).startswith(f"{out}: 12 train, 5 test in 4 shards, ")
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_packed_sample_is_the_sample(dataset: Path, packed: Path, processor: Any) -> None:
    for split in ("train", "test"):
        loose, tight = open_rows(dataset, split), open_rows(packed, split)
        assert isinstance(loose, Rows)
        assert isinstance(tight, PackedRows)
        by_id = {loose.id_of(k): k for k in range(len(loose))}
        assert sorted(by_id) == sorted(tight.id_of(k) for k in range(len(tight)))
        for k in range(len(tight)):
            place = by_id[tight.id_of(k)]
            one, other = (encode(processor, rows[i], with_answer=True) for rows, i in ((loose, place), (tight, k)))
            assert torch.equal(one.input_ids, other.input_ids)
            assert torch.equal(one.patches, other.patches)
            assert np.array_equal(one.waypoints, other.waypoints)
            assert tight.text_bytes()[k] == loose.text_bytes()[place]
            assert tight.image_counts()[k] == 3
            assert tight.raw(k) | {"images": 0} == loose.raw(place) | {"images": 0}
    assert [tight.id_of(k) for k in range(5)] == [f"test-{k}" for k in range(5)], "only what is trained on is shuffled"


def test_any_number_of_workers_and_a_killed_run_gone_on_with_pack_the_same_bytes(
    dataset: Path, packed: Path, tmp_path: Path
) -> None:
    expected = bytes_of(packed)
    pack(dataset, tmp_path / "two", samples_per_shard=5, workers=2)
    assert bytes_of(tmp_path / "two") == expected
    killed = tmp_path / "killed"
    shutil.copytree(packed, killed)
    for name in (MANIFEST, "train-00001.tar", "test-00000.tar", "test-00000.index.npy"):
        (killed / name).unlink()
    (killed / ".train-00001.tar.part").write_bytes(b"half")
    with pytest.raises(ValueError, match="not wholly packed: go on with nsdrive pack --resume"):
        open_rows(killed, "train")
    with pytest.raises(ValueError, match="is half packed, to train on: give the dataset"):
        open_dataset(killed)
    with pytest.raises(ValueError, match="begun with other settings or data"):
        pack(dataset, killed, samples_per_shard=6, resume=True)
    with pytest.raises(ValueError, match="--resume"):
        pack(dataset, killed, samples_per_shard=5)
    done: list[tuple[int, int]] = []
    pack(dataset, killed, samples_per_shard=5, resume=True, progress=lambda *at: done.append(at))
    assert bytes_of(killed) == expected
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_files_are_what_the_webdataset_library_reads(packed: Path) -> None:
    """Members of a sample stand together; what precedes the first dot names it, the rest says what a member is."""
    with tarfile.open(packed / "train-00000.tar") as tar:
        members = [(member.name.partition("."), tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    groups: dict[str, list[str]] = {}
    for (key, _, kind), data in members:
        groups.setdefault(key, []).append(kind)
        if kind == "json":
            assert json.loads(data)["id"] == key
        else:
            assert data.startswith(b"\xff\xd8")  # a JPEG
    assert list(groups.values()) == [["json", "CAM_F0.jpg", "CAM_R0.jpg", "CAM_L0.jpg"]] * 5
    changes = sum(one[0][0] != other[0][0] for one, other in pairwise(members))
    assert changes == len(groups) - 1


def test_an_epoch_reads_a_few_shards_at_a_time_and_every_sample_once(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = open_rows(packed, "train")
    assert isinstance(rows, PackedRows)
    monkeypatch.setattr(shards, "MIXED_SHARDS", 2)
    orders = [rows.shuffled(np.random.default_rng(k)) for k in range(20)]
    for order in orders:
        assert sorted(order) == list(range(12))
        of = order // 5  # the shards have 5, 5 and 2
        last = of[-1]
        n_last = 2 if last == 2 else 5
        assert set(of[-n_last:]) == {last}, "the third shard is read when the first two are done"
    assert len({tuple(order) for order in orders}) == 20
    assert len({int(order[0]) // 5 for order in orders}) == 3


def test_a_resumed_epoch_reads_on_where_it_stopped(packed: Path, processor: Any) -> None:
    undisturbed = Schedule(open_rows(packed, "train"), processor, n_samples=24, seed=5)
    ids = [undisturbed[k].sample_id for k in range(24)]
    resumed = Schedule(open_rows(packed, "train"), processor, n_samples=24, seed=5)
    assert [resumed[k].sample_id for k in range(17, 24)] == ids[17:]
    assert len(resumed._rows._open) <= 3  # type: ignore[attr-defined]
    loader = DataLoader(undisturbed, batch_size=4, num_workers=1, collate_fn=Collator(processor))
    assert [one for batch in loader for one in batch["sample_ids"]] == ids
    assert pickle.loads(pickle.dumps(undisturbed._rows))[3].sample_id == undisturbed._rows[3].sample_id


def test_what_is_wrong_with_a_packed_data_set_is_said_in_one_line(packed: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        shutil.copytree(packed, tmp_path / name)
        return tmp_path / name

    cut = broken("cut")
    tar = cut / "train-00001.tar"
    tar.write_bytes(tar.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"train-00001\.tar has 9000 bytes instead of \d+: it is cut off"):
        open_rows(cut, "train")
    lost = broken("lost")
    (lost / "train-00000.index.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00000\.index\.npy is named in the manifest but is not there"):
        open_rows(lost, "train")
    wild = broken("wild")
    np.save(wild / "train-00000.index.npy", np.full((5, 6), 1 << 60))
    with pytest.raises(ValueError, match=r"names bytes that train-00000\.tar does not have"):
        open_rows(wild, "train")
    np.save(wild / "train-00000.index.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="is no index"):
        open_rows(wild, "train")
    with (wild / "train-00000.index.npy").open("wb") as file:  # a header without its numbers
        header = {"descr": "<i8", "fortran_order": False, "shape": (1 << 40, 6)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match="is no index"):
        open_rows(wild, "train")
    with pytest.raises(ValueError, match="is packed, to train on"):
        open_dataset(packed)


@pytest.mark.parametrize("name", ["../../etc/x.jpg", "/etc/x.jpg", "a/../../x.jpg", "link", "sparse"])
def test_a_member_that_leads_out_of_the_folder_or_claims_any_size_is_refused(
    packed: Path, tmp_path: Path, name: str
) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(packed, evil)
    member = tarfile.TarInfo(name)
    if name == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    if name == "sparse":  # zeros that stand nowhere: its header alone says how many
        member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
    tar = evil / "train-00000.tar"
    with tarfile.open(tar, "w") as file:
        file.addfile(member, io.BytesIO(b""))
        n_bytes = file.offset
    index = np.array([[0, n_bytes, 10, 10, 1, 0]])
    np.save(evil / "train-00000.index.npy", index)
    manifest = json.loads((evil / MANIFEST).read_text())
    manifest["shards"]["train-00000.tar"]["bytes"] = tar.stat().st_size
    (evil / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"train-00000\.tar, at byte 0, holds no sample.*is no plain file"):
        open_rows(evil, "train")[0]


def test_a_sample_that_cannot_be_packed_is_named_and_odd_names_are_made_plain(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "odd", n_train=2, n_test=1)
    shard = folder / "train-00000.jsonl"
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    shutil.copy(folder / rows[0]["images"][0], folder / "a b.jpg")
    rows[0]["images"] = [rows[0]["images"][0]] * 2 + ["a b.jpg"]
    rows[0]["id"] = rows[1]["id"] = "Zürich/../1.5 km"
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(folder, tmp_path / "packed")
    packed = open_rows(tmp_path / "packed", "train")
    first = next(row for row in (packed[k] for k in range(2)) if row.prompt == rows[0]["messages"][0]["content"])
    assert first.sample_id == "Zürich/../1.5 km"
    assert [image.name for image in first.images] == ["CAM_F0.jpg", "image1.jpg", "image2.jpg"]  # type: ignore[union-attr]
    with tarfile.open(tmp_path / "packed" / "train-00000.tar") as tar:
        assert {member.name.partition(".")[0] for member in tar} == {"Z_rich____1_5_km", "Z_rich____1_5_km-1"}
    (folder / rows[1]["images"][2]).unlink()
    with pytest.raises(ValueError, match=r"^Sample Zürich/\.\./1\.5 km: the image CAM_L0\.jpg cannot be read"):
        pack(folder, tmp_path / "again")
