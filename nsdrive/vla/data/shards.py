"""Packed data sets: samples with their images in a few large files, to be read from where many small ones are slow.

    pack(Path("out/data"), Path("out/packed"), workers=4)
    rows = open_rows("out/packed", "train")             # as rows.Rows of a dataset's folder, which it opens too

    PACKED/
        manifest.json           written last: kind "packed", counts, sha256 and bytes of each file, which dataset it is of
        train-00000.tar         ID.json, ID.CAM_F0.jpg, ID.CAM_R0.jpg, ... sample after sample: the webdataset library's form
        train-00000.index.npy   (samples, 6) int64, see INDEX: one read fetches a sample

The training split is shuffled when it is packed. An epoch takes its files in a random order, MIXED_SHARDS at a time, and the
samples of these in a random order: what is read lies near together, however large the whole is, and entry k of a training is
still a pure function of (seed, k), so a resumed run reads on in the midst of an epoch without reading what came before.

A packed folder may come from a stranger: nothing in it is unpacked to disk, and members that are no plain files are refused.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsdrive import __version__
from nsdrive.counted import counted
from nsdrive.dataset import (
    FORMAT_VERSION,
    MANIFEST,
    PACKING,
    SPLITS,
    Dataset,
    inside,
    json_line,
    open_dataset,
    sha256_of,
    write_atomically,
)
from nsdrive.output_folder import claim_folder, settle
from nsdrive.parallel import check_workers, in_order
from nsdrive.vla.data.rows import Row, Rows, StoredImage, read_row
from nsdrive.vla.prompt import TASK

KIND = "packed"
SAMPLES_PER_SHARD = 1000  # chosen by us: some 100 MB of 8 small cameras, 1 GB of large ones
MIXED_SHARDS = 8  # chosen by us: their samples are mixed, so this much is read here and there
INDEX = ("first byte", "bytes", "bytes of the row's JSON", "bytes of its messages", "images", "trace level")
LEVELS = (*TASK, "other")
MAX_OPEN = 32  # files, chosen by us
MAX_SAMPLE_BYTES = 1 << 28  # chosen by us: a stranger's index may claim any size


@dataclass(frozen=True, kw_only=True)
class PackSummary:
    """What was packed: samples by split, and what the files weigh."""

    folder: str
    counts: dict[str, int]
    shards: int
    total_bytes: int

    def __str__(self) -> str:
        said = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        return f"{self.folder}: {said} in {counted(self.shards, 'shard')}, {self.total_bytes / 1e6:.1f} MB"


def pack(
    dataset: Path,
    out: Path,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    workers: int = 1,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PackSummary:
    """Pack a dataset's folder: the same bytes for any number of workers. progress is told shards done and in all.

    seed: of the training split's shuffle. ValueError, naming the sample, for one that cannot be read or whose image is missing.
    """
    if samples_per_shard < 1:
        raise ValueError(f"--samples-per-shard must be at least 1, got {samples_per_shard}")
    if seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {seed}")
    check_workers(workers)
    opened = open_dataset(dataset)
    claim_folder(out, resume=resume, overwrite=overwrite, marker=PACKING)
    settings = {
        "dataset_sha256": sha256_of(opened.folder / MANIFEST),
        "samples_per_shard": samples_per_shard,
        "seed": seed,
        "version": __version__,
    }
    settle(out, PACKING, settings)
    jobs, counts = [], {}
    for split in SPLITS:
        rows = Rows(opened, split)
        if len(rows) == 0:
            continue
        counts[split] = len(rows)
        order = np.arange(len(rows))
        if split == "train":
            np.random.default_rng([seed, len(rows)]).shuffle(order)
        for number, start in enumerate(range(0, len(rows), samples_per_shard)):
            chosen = rows.only(order[start : start + samples_per_shard])
            jobs.append(_Job(dataset=opened, rows=chosen, tar=out / f"{split}-{number:05d}.tar"))
    files: dict[str, Any] = {}
    for done, entry in enumerate(in_order(_pack_shard, jobs, workers), start=1):
        files |= entry
        if progress is not None:
            progress(done, len(jobs))
    manifest = {"format_version": FORMAT_VERSION, "kind": KIND, "counts": counts, "shards": files, **settings}
    write_atomically(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    total_bytes = sum(one["bytes"] for one in files.values())
    return PackSummary(folder=str(out), counts=counts, shards=len(jobs), total_bytes=total_bytes)


def open_rows(folder: str | Path, split: str, *, level: str | None = None) -> Rows | PackedRows:
    """The rows of a dataset's folder or of a packed one. FileNotFoundError or ValueError as `open_dataset`."""
    manifest = read_packed_manifest(Path(folder))
    if manifest is None:
        return Rows(open_dataset(folder), split, level=level)
    return PackedRows(Path(folder), manifest, split, level=level)


class PackedRows:
    """The rows of one split of a packed data set: as `Rows`, the images with them. 48 bytes a row are kept in memory."""

    def __init__(self, folder: Path, manifest: dict[str, Any], split: str, *, level: str | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"No split '{split}'. Known: {', '.join(SPLITS)}")
        if level is not None and level not in LEVELS:
            raise ValueError(f"No trace level '{level}'. Known: {', '.join(TASK)}")
        self.split = split
        self._open: dict[Path, int] = {}  # file descriptors, the one used last at the end
        names = sorted(name for name in manifest["shards"] if re.fullmatch(rf"{split}-\d+\.tar", name))
        self._tars = [inside(folder, name) for name in names]
        indices = [_read_index(tar, manifest["shards"][tar.name]) for tar in self._tars]
        if level is not None:
            indices = [index[index[:, 5] == LEVELS.index(level)] for index in indices]
        self._index = np.concatenate(indices) if indices else np.zeros((0, len(INDEX)), dtype=np.int64)
        self._shard = np.repeat(np.arange(len(indices)), [len(index) for index in indices])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Row:
        row, images = self._sample(index)
        return read_row(images, row)

    def raw(self, index: int) -> dict[str, Any]:
        """The JSON object of a row. Raises ValueError naming a broken file."""
        return self._sample(index)[0]

    def id_of(self, index: int) -> str:
        return str(self.raw(index)["id"])

    def text_bytes(self) -> NDArray[np.int64]:
        """(N,): how long each row's text is."""
        return self._index[:, 3]

    def image_counts(self) -> NDArray[np.int64]:
        """(N,): how many images each row has."""
        return self._index[:, 4]

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every index once: the shards in any order, the samples of MIXED_SHARDS at a time mixed."""
        first = np.searchsorted(self._shard, np.arange(len(self._tars) + 1))
        shards = rng.permutation(len(self._tars))
        order = []
        for start in range(0, len(shards), MIXED_SHARDS):
            mixed = [np.arange(first[k], first[k + 1]) for k in shards[start : start + MIXED_SHARDS]]
            order.append(rng.permutation(np.concatenate(mixed)))
        return np.concatenate(order) if order else np.zeros(0, dtype=np.int64)

    def _sample(self, index: int) -> tuple[dict[str, Any], _TarImages]:
        tar = self._tars[self._shard[index]]
        start, n_bytes = (int(value) for value in self._index[index, :2])
        block = os.pread(self._descriptor(tar), n_bytes, start)
        if len(block) < n_bytes:
            raise ValueError(f"{tar} is cut off: a sample of {n_bytes} bytes at {start} is not whole. Copy it again")
        try:
            members = _members(block)
            name = next(name for name in members if name.endswith(".json"))
            row = json.loads(members.pop(name))
            if not isinstance(row, dict) or "id" not in row:
                raise ValueError("its row has no id")
        except (ValueError, StopIteration, tarfile.TarError) as error:
            said = "it has no row" if isinstance(error, StopIteration) else error
            raise ValueError(f"{tar.name}, at byte {start}, holds no sample ({said})") from None
        key = name.removesuffix(".json")
        return row, _TarImages({one.removeprefix(f"{key}."): data for one, data in members.items()})

    def _descriptor(self, tar: Path) -> int:
        if tar in self._open:
            self._open[tar] = self._open.pop(tar)
        else:
            if len(self._open) == MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[tar] = os.open(tar, os.O_RDONLY)
        return self._open[tar]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # another process opens its own

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)


AnyRows = Rows | PackedRows


def read_packed_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a packed data set, None where the folder is something else. ValueError for a broken one."""
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / PACKING).is_file():
            raise ValueError(f"{folder} is not wholly packed: go on with nsdrive pack --resume")
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # open_dataset says it
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        return None
    if manifest.get("format_version") != FORMAT_VERSION or not isinstance(manifest.get("shards"), dict):
        raise ValueError(f"{path} is not the manifest of a packed data set of format version {FORMAT_VERSION}")
    return manifest


@dataclass(frozen=True)
class _TarImages:
    """A sample's images by the names that its row has for them."""

    members: dict[str, bytes]

    def image_path(self, relative: str) -> StoredImage:
        if relative not in self.members:
            raise ValueError(f"its image {relative[:80]!r} is not beside it")
        return StoredImage(name=relative, data=self.members[relative])


def _members(block: bytes) -> dict[str, bytes]:
    """Name -> content of the plain files in a piece of a tar; ValueError for anything else."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(block), mode="r:") as tar:
        for member in tar:
            name = member.name
            if (
                not member.isreg()
                or member.issparse()
                or name.startswith("/")
                or "\\" in name
                or ".." in name.split("/")
            ):
                raise ValueError(f"the member {name[:80]!r} is no plain file inside the folder")
            file = tar.extractfile(member)
            assert file is not None, "a plain file has content"
            found[name] = file.read()
    return found


def _read_index(tar: Path, entry: Any) -> NDArray[np.int64]:
    path = tar.with_suffix(".index.npy")
    for file in (tar, path):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is named in the manifest but is not there")
    size = tar.stat().st_size
    if not isinstance(entry, dict) or size != entry.get("bytes"):
        expected = entry.get("bytes") if isinstance(entry, dict) else "unknown"
        raise ValueError(f"{tar} has {size} bytes instead of {expected}: it is cut off or another file. Copy it again")
    try:
        index = np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # mapped: its header may claim any size
    except (ValueError, OSError, EOFError):
        index = np.zeros(0)
    if index.dtype != np.int64 or index.ndim != 2 or index.shape[1] != len(INDEX):
        raise ValueError(f"{path} is no index of a packed data set. Pack it again")
    start, n_bytes = index[:, 0], index[:, 1]
    is_inside = (start >= 0) & (n_bytes > 0) & (n_bytes <= MAX_SAMPLE_BYTES) & (start <= size - n_bytes)
    if not is_inside.all():
        raise ValueError(f"{path} names bytes that {tar.name} does not have. Pack it again")
    return index


# ---- packing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One shard."""

    dataset: Dataset
    rows: Rows
    tar: Path


def _pack_shard(job: _Job) -> dict[str, Any]:
    """Write a shard and its index, if they are not there. Returns its entry of the manifest."""
    if not job.tar.is_file():
        part = job.tar.with_name(f".{job.tar.name}.part")
        keys: set[str] = set()
        with part.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            index = [_pack_sample(job, k, tar, keys) for k in range(len(job.rows))]
        buffer = io.BytesIO()
        np.save(buffer, np.array(index, dtype=np.int64))
        write_atomically(job.tar.with_suffix(".index.npy"), buffer.getvalue())
        part.replace(job.tar)  # last: where it is, its index is
    return {job.tar.name: {"bytes": job.tar.stat().st_size, "sha256": sha256_of(job.tar), "samples": len(job.rows)}}


def _pack_sample(job: _Job, k: int, tar: tarfile.TarFile, keys: set[str]) -> list[int]:
    """Write a row and its images. Returns its entry of the index."""
    raw = job.rows.raw(k)
    row = read_row(job.dataset, raw)
    key = _key(row.sample_id, keys)
    keys.add(key)
    images: dict[str, bytes] = {}
    for place, image in enumerate(row.images):
        assert isinstance(image, Path), "a dataset's folder has files"
        try:
            images[_suffix(image.name, place, images)] = image.read_bytes()
        except OSError as error:
            raise ValueError(
                f"Sample {row.sample_id}: the image {image.name} cannot be read ({error.strerror})"
            ) from None
    start, said = tar.offset, json_line(raw | {"images": list(images)}).encode()
    _add(tar, f"{key}.json", said)
    for name, data in images.items():
        _add(tar, f"{key}.{name}", data)
    level = LEVELS.index(row.level if row.level in LEVELS else "other")
    return [start, tar.offset - start, len(said), int(job.rows.text_bytes()[k]), len(images), level]


def _key(sample_id: str, taken: set[str]) -> str:
    """A name in the tar of its own: no dot, since the webdataset library reads what follows the first one as the kind."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", sample_id)[:70]  # a plain tar's names have 100 letters
    key, number = plain, 1
    while key in taken:
        key, number = f"{plain}-{number}", number + 1
    return key


def _suffix(name: str, place: int, taken: Container[str]) -> str:
    """CAM_F0.jpg, the same for the same camera; the image's place in the row where that would not be plain, or not unique."""
    if re.fullmatch(r"[A-Z0-9_]{1,16}\.(jpg|jpeg|png)", name) and name not in taken:
        return name
    return f"image{place}.{'png' if name.lower().endswith('.png') else 'jpg'}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without owner or date, so that the same samples are the same bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
