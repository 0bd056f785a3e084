"""A run's folder: the names in it, the settings that it was begun with, and the summary that is written last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nsdrive import __version__
from nsdrive.config import to_plain
from nsdrive.counted import counted
from nsdrive.dataset import MANIFEST, sha256_of, write_atomically
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.logs import CONFIG, DONE
from nsdrive.vla.training.processes import process_count

BASE, CHECKPOINTS = "base", "checkpoints"
WARMED = "warmed"  # the model that the steps begin with, where its vision tower was warmed up
WARMING = "warming.pt"  # as far as a warm-up came that was stopped or killed


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What train.json holds."""

    folder: str
    model: str  # the class
    steps: int
    samples_seen: int
    answer_tokens: int
    first_loss: float
    final_loss: float
    parameters: int
    trained_parameters: int
    processes: int
    device: str
    seconds: float  # of this call; a resumed run's earlier part is not counted
    input_wait_share: float  # of those seconds, spent waiting for batches
    version: str
    forecast_gpu_gib: float | None = None  # of tensors on one GPU at the most, as said before the start; None on a CPU
    measured_gpu_gib: float | None = None  # the same, by torch.cuda.max_memory_allocated of the first process

    def __str__(self) -> str:
        memory = ""
        if self.measured_gpu_gib is not None:
            memory = f", {self.measured_gpu_gib:.1f} GiB a GPU (forecast {self.forecast_gpu_gib:.1f})"
        return (
            f"{self.folder}: {self.model}, {counted(self.steps, 'step')}, loss {self.first_loss:.3f} -> {self.final_loss:.3f}, "
            f"{self.seconds:.0f} s on {self.processes} x {self.device}{memory}"
        )


def settle_config(config: TrainConfig, dataset: Path, out: Path) -> None:
    """Write config.json; a resumed run must have the same settings and dataset, else its curve means nothing."""
    settled = {
        "version": __version__,
        "dataset": str(dataset),
        "dataset_sha256": sha256_of(dataset / MANIFEST),
        **({} if config.co_data is None else {"co_data_sha256": sha256_of(Path(config.co_data) / MANIFEST)}),
        **({"deepspeed_sha256": sha256_of(own)} if (own := Path(config.deepspeed)).suffix == ".json" else {}),
        "global_batch": config.per_device_batch_size * config.gradient_accumulation_steps * process_count(),
        "train": to_plain(config),
    }
    path = out / CONFIG
    if not path.is_file():
        write_atomically(path, json.dumps(settled, indent=2) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    free = {  # these change no number
        "workers",
        "keep_checkpoints",
        "allow_slow_kernels",
        "check_memory",
        "save_every_minutes",
        "process_timeout_minutes",
        "track",
        "validate_every_steps",
        "validate_samples",
        "per_device_batch_size",  # these two split the global batch, which a run keeps
        "gradient_accumulation_steps",
    }
    old, new = before["train"], settled["train"]
    changed = [
        f"{k}: {old.get(k)!r} -> {new.get(k)!r}"
        for k in sorted(old.keys() | new.keys())
        if old.get(k) != new.get(k) and k not in free
    ]
    if before["dataset_sha256"] != settled["dataset_sha256"]:
        changed.append(f"dataset: {before['dataset']} -> {dataset}")
    if before.get("co_data_sha256") != settled.get("co_data_sha256") and old.get("co_data") == new.get("co_data"):
        changed.append(f"co_data: {config.co_data} is not what it was")
    own = before.get("deepspeed_sha256")
    if own is not None and own != settled.get("deepspeed_sha256") and old["deepspeed"] == new["deepspeed"]:
        changed.append(f"deepspeed: {config.deepspeed} is not what it was")
    if changed:
        raise ValueError(f"{out} was begun with other settings ({'; '.join(changed)}). Give those, or another --out")


def begun_global_batch(out: Path) -> int:
    """Samples of a step, of all processes together, as the run was begun."""
    settled = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    share = settled["train"]["per_device_batch_size"] * settled["train"]["gradient_accumulation_steps"]
    return int(settled.get("global_batch", share * process_count()))  # early runs do not say it


@contextmanager
def leaving_nothing_begun(out: Path) -> Iterator[None]:
    """Take away the folder of a run that fails before anything was made: the same --out can be given again."""
    try:
        yield
    except Exception:
        _take_away(out)
        raise


def _take_away(out: Path) -> None:
    made = {path.name for path in out.iterdir()} if out.is_dir() else {CHECKPOINTS}
    if made == {CONFIG, CHECKPOINTS} and not any((out / CHECKPOINTS).iterdir()):
        (out / CONFIG).unlink()
        (out / CHECKPOINTS).rmdir()
        out.rmdir()


def read_summary(out: Path) -> TrainSummary:
    return TrainSummary(**json.loads((out / DONE).read_text(encoding="utf-8")))
