"""What a run will be, before it starts: parameters, tokens, steps, memory per GPU, and whether it fits.

    print(forecast(TrainConfig(model="Qwen/Qwen3.5-4B", deepspeed="zero2"), Path("out/data"), processes=8, gpu_memory_gb=80))
    forecast(config, None, processes=8, cameras=8)        # without a dataset: a typical sample of so many cameras

Needs no weights and no network: a model is built without memory from its config, or for the public checkpoints from their
numbers (architectures.py). Parameters, gradients and optimiser are exact; activations are counted on the layers' own code
(activations.py; within 15 % of what a CPU run holds, as a test shows). What CUDA itself takes is an allowance. Left out: a
trajectory head's weights (some millions), and that the questions of co-training are shorter than drives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nsdrive.counted import counted
from nsdrive.vla.data.images import ImageShape
from nsdrive.vla.data.shards import open_rows
from nsdrive.vla.forecast.activations import Batch, Piece, activations, inner_part, measure_pieces, skeleton
from nsdrive.vla.forecast.architectures import SHAPES, config_of
from nsdrive.vla.forecast.model_state import Parameter, model_state
from nsdrive.vla.forecast.sample_size import SampleSize, sample_size, typical_sample_size
from nsdrive.vla.model import load_tokenizer, quiet_libraries
from nsdrive.vla.question_form import model_folder
from nsdrive.vla.training.arguments import deepspeed_config
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.run_folder import BASE
from nsdrive.vla.training.samples_seen import entries_of_epoch
from nsdrive.vla.training.starting_model import make_tiny_base
from nsdrive.vla.training.what_learns import choose_what_learns

GIB = 2**30
CUDA_GIB = 0.75  # chosen by us: a CUDA context and cuBLAS workspaces take about so much of a data-centre GPU
NCCL_GIB = 0.5  # chosen by us: NCCL's own buffers, with several processes
FRAGMENTED = 0.05  # chosen by us: share of tensors' bytes that the allocator cannot give to others
PATCHES_PER_TOKEN = 4  # 2 x 2 are merged, in all three families


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Counts are of numbers, tokens, samples; memory of bytes on one GPU, by part, while the most is taken (`peak_in`)."""

    model: str
    parameters: int
    body: int  # of the language model, without embedding and output layer
    embedding: int  # with the output layer, which is the same where tied
    vision: int
    trained: int
    sample: SampleSize
    processes: int
    global_batch: int
    steps: int
    tokens_per_step: int
    memory: dict[str, int]
    peak_in: str
    host_memory: int  # on the CPU for one process, where ZeRO offloads
    gpu_memory: int | None
    changes: tuple[str, ...] = ()  # what could be changed where it does not fit

    @property
    def total(self) -> int:
        return sum(self.memory.values())

    @property
    def surely_needed(self) -> int:
        """Without the allowance for CUDA and fragments."""
        return self.total - self.memory[ALLOWANCE]

    @property
    def short(self) -> str:
        """The numbers that a recipe states."""
        return (
            f"{self.sample.mean:,.0f} tokens a sample, {self.tokens_per_step:,} a step of "
            f"{counted(self.global_batch, 'sample', form=',')}, {self.total / GIB:.1f} GiB a GPU"
        )

    @property
    def verdict(self) -> str:
        """'fits', 'tight', 'too much', or 'unknown' where the GPU's memory is."""
        if self.gpu_memory is None:
            return "unknown"
        if self.surely_needed > self.gpu_memory:
            return "too much"
        return "fits" if self.total <= self.gpu_memory else "tight"

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.memory.items() if size >= 0.05 * GIB)
        lines = [
            f"{self.model}: {billions(self.parameters)} parameters = {billions(self.body)} language body + "
            f"{billions(self.embedding)} embedding + {billions(self.vision)} vision; {billions(self.trained)} trained",
            f"tokens per sample: {self.sample}",
            (counted(self.steps, "step", form=",") if self.steps else "steps")
            + f" of {counted(self.global_batch, 'sample', form=',')} = {self.tokens_per_step:,} tokens, "
            + f"on {counted(self.processes, 'GPU')}",
            f"memory per GPU: {self.total / GIB:.1f} GiB = {parts} (most in {self.peak_in})",
        ]
        if self.host_memory:
            lines.append(f"memory of the host: {self.host_memory / GIB:.1f} GiB per process")
        lines.append(self._says())
        return "\n".join([*lines, *self.changes])

    def _says(self) -> str:
        if self.gpu_memory is None:
            return "whether it fits is not known: give the GPU's memory (--gpu-memory-gb)"
        has = f"a GPU has {self.gpu_memory / GIB:.1f} GiB"
        return {
            "fits": f"fits: {has}",
            "tight": f"tight: {has}; it fits only where CUDA and fragments take less than allowed for",
            "too much": f"does not fit: {has}",
        }[self.verdict]


ALLOWANCE = "CUDA and fragments"


def forecast(
    config: TrainConfig,
    dataset: Path | None,
    *,
    processes: int,
    gpu_memory_gb: float | None = None,
    cameras: int = 3,
    source: str | None = None,
    rows: Any = None,
) -> Forecast:
    """The forecast of `config` on GPUs. gpu_memory_gb: of one, in GiB; None: what CUDA says here, or not known.

    dataset None: samples as `nsdrive generate` makes them, with `cameras` images. source: the model's folder where that is
    known better than config.model (the tiny model's). rows: those of the dataset, where they are open already.
    Raises ValueError for a model or dataset that cannot be trained on.
    """
    if processes < 1 or cameras < 0 or (gpu_memory_gb is not None and not gpu_memory_gb > 0.0):
        raise ValueError(
            f"--gpus must be at least 1, --cameras 0 or more, --gpu-memory-gb positive: "
            f"got {processes}, {cameras} and {gpu_memory_gb}"
        )
    quiet_libraries()
    if rows is None and dataset is not None:
        rows = open_rows(Path(dataset), "train", level=config.train_level)
    with _folder_of(config, source, rows) as folder:
        model_config = config_of(folder, trust_remote_code=config.trust_remote_code)
        shape = _image_shape(config, model_config)
        if rows is None:
            size, n_rows = typical_sample_size(cameras=cameras, shape=shape), None
        else:
            size, n_rows = sample_size(rows, shape=shape, tokenizer=_tokenizer(folder, config)), len(rows)
    gpu_memory = round(gpu_memory_gb * GIB) if gpu_memory_gb is not None else _memory_of_this_gpu()
    model = _Model.of(config, model_config, _longest_batch(config, size))
    told = _forecast(config, model, size, n_rows, processes, gpu_memory)
    if told.verdict in ("tight", "too much"):
        told = replace(told, changes=_changes(config, model_config, model, size, processes, told))
    return told


def require_memory(told: Forecast, config: TrainConfig) -> None:
    """ValueError in one line for a run that cannot fit, unless check_memory=false."""
    if told.verdict == "too much" and config.check_memory:
        assert told.gpu_memory is not None
        fits = [change for change in told.changes if change.endswith("fits")]
        advice = " or ".join(change.partition(":")[0] for change in fits) or "a smaller model, or more GPUs"
        raise ValueError(
            f"Too little memory for a micro-batch of {config.per_device_batch_size}: about {told.surely_needed / GIB:.0f} GiB "
            f"are needed on each GPU, which has {told.gpu_memory / GIB:.0f}. Try {advice} (check_memory=false trains all the same)"
        )


# ---- how it is made -----------------------------------------------------------------------------------------------


def _forecast(
    config: TrainConfig, model: _Model, size: SampleSize, n_rows: int | None, processes: int, gpu_memory: int | None
) -> Forecast:
    global_batch = processes * config.per_device_batch_size * config.gradient_accumulation_steps
    state = model_state(
        model.parameters, deepspeed=deepspeed_config(config.deepspeed), bf16=config.bf16 != "off", processes=processes
    )
    batch = _longest_batch(config, size)
    step = activations(model.pieces, batch, checkpointing=config.gradient_checkpointing)
    memory = {
        "weights": state.weights,
        "gradients": state.gradients,
        "optimiser": state.optimiser,
        "activations": step.kept,
        step.beyond_in: step.beyond,
        "communication": state.communication,
    }
    peak_in = "the backward pass"
    if state.step > step.kept + step.beyond:
        del memory["activations"], memory[step.beyond_in]
        memory["the optimiser's step"] = state.step
        peak_in = "the optimiser's step"
    memory[ALLOWANCE] = round(
        FRAGMENTED * sum(memory.values()) + GIB * (CUDA_GIB + (NCCL_GIB if processes > 1 else 0.0))
    )
    entries = entries_of_epoch(config, n_rows) if n_rows else 0
    steps = config.max_steps or ceil(config.epochs * entries / global_batch)
    return Forecast(
        model=config.model,
        parameters=sum(p.numbers for p in model.parameters),
        body=model.body,
        embedding=model.embedding,
        vision=model.vision,
        trained=sum(p.numbers for p in model.parameters if p.is_trained),
        sample=size,
        processes=processes,
        global_batch=global_batch,
        steps=steps,
        tokens_per_step=round(global_batch * size.mean),
        memory=memory,
        peak_in=peak_in,
        host_memory=state.host,
        gpu_memory=gpu_memory,
    )


def _longest_batch(config: TrainConfig, size: SampleSize) -> Batch:
    """Memory must do for it."""
    n = config.per_device_batch_size
    return Batch(
        tokens=n * size.most, patches=n * size.most_image * PATCHES_PER_TOKEN, answer_tokens=n * size.most_answer
    )


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What is counted of a model once: its weights as they are before training, and what its pieces keep."""

    parameters: list[Parameter]
    body: int
    embedding: int
    vision: int
    pieces: list[Piece]

    @classmethod
    def of(cls, config: TrainConfig, model_config: Any, batch: Batch) -> _Model:
        import torch

        in_bf16, with_deepspeed = config.bf16 != "off", config.deepspeed != "none"
        dtype = torch.bfloat16 if in_bf16 and (with_deepspeed or config.method == "lora") else torch.float32
        bare = skeleton(model_config, dtype=dtype)
        bare.name_or_path = config.model  # peft notes it
        model = choose_what_learns(bare, config, source=config.model)
        if in_bf16 and with_deepspeed:
            model = model.to(torch.bfloat16)  # DeepSpeed casts LoRA's weights too, which are made in fp32
        named = list(model.named_parameters())
        parameters = [
            Parameter(numbers=p.numel(), itemsize=p.element_size(), is_trained=p.requires_grad) for _, p in named
        ]
        vision = sum(p.numel() for name, p in named if ".visual." in name and "lora_" not in name)
        text = inner_part(model, "language_model")
        outputs = [p for name, p in named if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
        embedding = sum(p.numel() for p in outputs)
        body = sum(p.numel() for name, p in text.named_parameters() if "lora_" not in name) - (
            text.embed_tokens.weight.numel()
        )
        # autocast is transformers' way without DeepSpeed
        pieces = measure_pieces(
            model, batch, autocast=in_bf16 and not with_deepspeed, fast_delta_rule=not config.allow_slow_kernels
        )
        return cls(parameters=parameters, body=body, embedding=embedding, vision=vision, pieces=pieces)


def _changes(
    config: TrainConfig,
    model_config: Any,
    model: _Model,
    size: SampleSize,
    processes: int,
    told: Forecast,
) -> tuple[str, ...]:
    """One line for each setting that would take less, with what it would then be."""
    n = config.per_device_batch_size
    tried: dict[str, dict[str, Any]] = {
        "gradient_checkpointing=true": {"gradient_checkpointing": True},
        f"per_device_batch_size=1 gradient_accumulation_steps={config.gradient_accumulation_steps * n}": {
            "per_device_batch_size": 1,
            "gradient_accumulation_steps": config.gradient_accumulation_steps * n,
        },
        "deepspeed=zero3": {"deepspeed": "zero3"},
        "deepspeed=zero2_offload": {"deepspeed": "zero2_offload"},
        "method=lora": {"method": "lora", "train_merger": False, "vision_warmup_steps": 0},
    }
    lines = []
    for name, change in tried.items():
        other_config = replace(config, **change)
        same = other_config.method == config.method and (other_config.deepspeed == "none") == (
            config.deepspeed == "none"
        )
        other_model = model if same else _Model.of(other_config, model_config, _longest_batch(other_config, size))
        other = _forecast(other_config, other_model, size, None, processes, told.gpu_memory)
        if other.total < told.total:
            verdict = "does not fit" if other.verdict == "too much" else other.verdict
            lines.append(f"{name}: {other.total / GIB:.1f} GiB, {verdict}")
    return tuple(lines)


def _image_shape(config: TrainConfig, model_config: Any) -> ImageShape:
    vision = model_config.vision_config
    return ImageShape(
        patch_px=vision.patch_size,
        merge=vision.spatial_merge_size,
        min_pixels=config.min_image_pixels,
        max_pixels=config.max_image_pixels,
    )


@contextmanager
def _folder_of(config: TrainConfig, source: str | None, rows: Any) -> Iterator[str]:
    """Where the model's config and tokenizer are; the tiny model, which a run makes of its samples, is made for a moment."""
    if source is not None or config.model != "tiny":
        yield source or model_folder(config.model)
        return
    with TemporaryDirectory() as folder:
        make_tiny_base(config, rows, Path(folder))
        yield str(Path(folder) / BASE)


def _tokenizer(source: str, config: TrainConfig) -> Any:
    """The checkpoint's own; None where only its shape is known here."""
    try:
        return load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    except (FileNotFoundError, ValueError):
        if source in SHAPES:
            return None
        raise


def _memory_of_this_gpu() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def billions(count: int) -> str:
    """4,540,000,000 -> '4.54 B', 1,600,000 -> '1.6 M'."""
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.1f} M"
