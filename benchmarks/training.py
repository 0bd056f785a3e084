"""How many samples a second training takes, and transformers' Trainer with its stock processor beside it, in one run.

OMP_NUM_THREADS=1 python benchmarks/training.py --data out/data
python benchmarks/training.py --data out/data --model Qwen/Qwen3.5-4B --samples 256 --rounds 1 --batch 8 --workers 12   # on a GPU

Both train the same model with random weights on the same samples, in turns, at a learning rate that changes nothing, so that
their losses can be compared: the same samples must give the same loss. On a CPU that is the tiny model, in float32; --model
takes the public shape of a checkpoint, nothing is downloaded. Wall is what passed on a machine that may do other things as
well, CPU what this process worked. MFU, by CPU time on a CPU, counts no padding and nothing computed twice (`forecast.flops`);
its ceiling is a large product of matrices in the same run. --swift VENV/bin/swift adds ms-swift from an environment of its own,
for its versions and ours exclude each other: a process of its own, timed by itself from its first step to its last.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

# Python looks beside this file first, and would take it for the package of the same name.
sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]

from transformers import AutoModelForImageTextToText, PrinterCallback, Trainer, TrainingArguments  # noqa: E402

from nsdrive.vla.data.batch import Collator, collate  # noqa: E402
from nsdrive.vla.data.encoding import IGNORED, encode  # noqa: E402
from nsdrive.vla.data.rows import Row, Rows  # noqa: E402
from nsdrive.vla.data.schedule import Schedule  # noqa: E402
from nsdrive.vla.data.shards import open_rows  # noqa: E402
from nsdrive.vla.forecast.architectures import config_of  # noqa: E402
from nsdrive.vla.forecast.flops import Costs, Work, costs_of, work_of  # noqa: E402
from nsdrive.vla.model import load_model, load_processor, quiet_libraries  # noqa: E402
from nsdrive.vla.prompt import IMAGE_TOKEN  # noqa: E402
from nsdrive.vla.tiny import build_tiny  # noqa: E402
from nsdrive.vla.training.arguments import checkpointing, training_arguments  # noqa: E402
from nsdrive.vla.training.config import TrainConfig  # noqa: E402
from nsdrive.vla.training.linear_attention import ready_linear_attention  # noqa: E402
from nsdrive.vla.training.patch_embedding import ready_patch_embedding  # noqa: E402
from nsdrive.vla.training.trainer import AnswerTrainer  # noqa: E402

AIM = 1.3  # times the samples per second of the plain Trainer
STANDSTILL = 1e-12  # a learning rate below the last digit of any weight
ASSISTANT = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
ON_GPU = torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DATASET", help="a dataset's folder")
    parser.add_argument("--model", default="tiny", help="tiny, or the name of a public checkpoint's shape")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="samples at once, a step")
    parser.add_argument("--rounds", type=int, default=3, help="how often each trains on the samples; medians")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images, of both")
    parser.add_argument("--swift", type=Path, metavar="VENV/bin/swift", help="ms-swift's command, for the tiny model")
    parser.add_argument("--max-image-pixels", type=int, default=512 * 512 if ON_GPU else 192 * 192)
    arguments = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))
        wall_s, cpu_s = start_up(arguments.data, Path(folder))
    print(
        f"nsdrive train, the tiny model, from its first import through one step to the exit: {wall_s:.1f} s, CPU {cpu_s:.1f} s"
    )


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    rows = open_rows(arguments.data, "train")
    if not isinstance(rows, Rows) or len(rows) < arguments.samples:
        raise ValueError(f"{arguments.data} must be a dataset's folder with at least {arguments.samples} samples")
    rows = rows.only(np.linspace(0, len(rows) - 1, arguments.samples).astype(np.int64))
    config = TrainConfig(
        model=arguments.model,
        learning_rate=STANDSTILL,
        lr_schedule="constant_with_warmup",
        warmup_steps=0,
        per_device_batch_size=arguments.batch,
        max_steps=arguments.samples // arguments.batch,
        workers=arguments.workers,
        max_image_pixels=arguments.max_image_pixels,
        group_by_length=True,
        packing=ON_GPU,  # on a CPU attention over a whole packed row costs more than the padding that it saves
        gradient_checkpointing=ON_GPU,
    )
    base = make_base(rows, folder)
    processor = load_processor(base, min_pixels=4096, max_pixels=config.max_image_pixels)
    encoded = [encode(processor, rows[k], with_answer=True) for k in range(len(rows))]
    work = work_of(collate([one], processor) for one in encoded)
    model = make_model(config, base, processor)
    costs, about = (
        costs_of(model),
        f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters",
    )
    del model
    trainers: dict[str, Callable[[TrainConfig], Trained]] = {
        "AnswerTrainer": lambda c: train_ours(make_model(c, base, processor), c, rows, processor, folder),
        "transformers' Trainer": lambda c: train_plainly(make_model(c, base, processor), c, rows, processor, folder),
    }
    if arguments.swift is not None:
        if arguments.model != "tiny":
            raise ValueError("--swift is for the tiny model, whose folder ms-swift can read")
        trainers["ms-swift"] = lambda c: train_by_swift(arguments.swift.absolute(), c, rows, base, folder)
    runs: dict[str, list[Trained]] = {name: [] for name in trainers}
    for train in trainers.values():
        train(replace(config, max_steps=1))  # what is done once: compiling, first pages of memory
        release()
    for _ in range(arguments.rounds):
        for name, train in trainers.items():
            runs[name].append(train(config))
            release()  # 4B parameters and their optimizer's states fit once on a GPU, not twice
    print(about, end=", ")
    report(runs, work, costs, arguments, Inputs.of(rows, processor))


def report(
    runs: dict[str, list[Trained]], work: Work, costs: Costs, arguments: argparse.Namespace, inputs: Inputs
) -> None:
    n, flops = arguments.samples, costs.flops(work)
    ceiling = matmul_flops()
    print(f"{n} samples of {work.tokens / n:.0f} tokens ({work.answer_tokens / n:.0f} of the answer), ", end="")
    print(f"{arguments.batch} a step, {arguments.rounds} rounds, medians")
    print(f"a product of matrices: {ceiling / 1e9:.0f} GFLOP/s\n")
    print(f"{'':24s}{'samples/s':>10s}{'tokens/s':>10s}{'CPU ms/sample':>15s}{'MFU':>7s}{'waits':>7s}{'loss':>12s}")
    for name, ended in runs.items():
        wall_s, cpu_s = median(one.wall_s for one in ended), median(one.cpu_s for one in ended)
        waits = median(one.waited_s / one.wall_s for one in ended)  # ms-swift tells neither its CPU time nor its waits
        used_s = wall_s if ON_GPU else cpu_s
        told = [(f"{1e3 * cpu_s / n:.1f}", 15), (f"{flops / used_s / ceiling:.1%}", 7), (f"{waits:.1%}", 7)]
        cells = "".join(f"{'-' if 'nan' in cell else cell:>{width}}" for cell, width in told)
        print(f"{name:24s}{n / wall_s:10.2f}{work.tokens / wall_s:10.0f}{cells}{ended[0].loss:12.6f}")
    ours, plain, *others = runs.values()
    for name, other in zip(list(runs)[2:], others, strict=True):
        faster = median(one.wall_s for one in other) / median(one.wall_s for one in ours)
        print(f"{faster:.2f}x the samples a second of {name}; its loss is its own mean of means")
    in_cpu, in_wall = (
        median(getattr(one, clock) for one in plain) / median(getattr(one, clock) for one in ours)
        for clock in ("cpu_s", "wall_s")
    )
    apart = abs(ours[0].loss - plain[0].loss) / plain[0].loss
    print(f"\n{in_wall:.2f}x the samples a second, {in_cpu:.2f}x by CPU (aim {AIM}x); losses {apart:.1e} apart")
    print(
        f"a sample read, resized and tokenised: {inputs.our_ms:.1f} ms and {inputs.our_bytes / 1e6:.2f} MB through a worker's "
        f"pipe; stock processor {inputs.stock_ms:.1f} ms and {inputs.stock_bytes / 1e6:.2f} MB"
    )


# ---- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training. loss: the mean over all answer tokens."""

    wall_s: float
    cpu_s: float
    waited_s: float
    loss: float


class Summing:
    """Mixed into a Trainer: adds up the loss of all answer tokens, and how long batches were waited for."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, **more)  # type: ignore[misc]
        n_tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
        self.summed = getattr(self, "summed", 0.0) + loss.detach() * n_tokens
        self.counted = getattr(self, "counted", 0) + n_tokens
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        started_s = time.monotonic()
        batches = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        self.waiting_s = getattr(self, "waiting_s", 0.0) + time.monotonic() - started_s
        return batches

    def timed(self) -> Trained:
        with clocks() as spent:
            self.train()  # type: ignore[attr-defined]
        return Trained(wall_s=spent[0], cpu_s=spent[1], waited_s=self.waiting_s, loss=float(self.summed / self.counted))


class OurTrainer(Summing, AnswerTrainer):
    pass


class PlainTrainer(Summing, Trainer):
    pass


def train_ours(model: Any, config: TrainConfig, rows: Rows, processor: Any, folder: Path) -> Trained:
    ready_linear_attention(model)
    ready_patch_embedding(model)
    arguments = training_arguments(config, None, n_rows=len(rows), out=folder / "ours")
    arguments.save_strategy = arguments.logging_strategy = "no"
    n_samples = arguments.max_steps * config.per_device_batch_size
    schedule = Schedule(rows, processor, n_samples=n_samples, seed=0, group_by=config.per_device_batch_size)
    collator = Collator(processor, packed=config.packing)
    return OurTrainer(model=model, args=arguments, train_dataset=schedule, data_collator=collator).timed()


def train_plainly(model: Any, config: TrainConfig, rows: Rows, processor: Any, folder: Path) -> Trained:
    """As the Trainer's examples for images and text do it."""
    arguments = TrainingArguments(
        output_dir=str(folder / "plain"),
        max_steps=config.max_steps or 1,
        per_device_train_batch_size=config.per_device_batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",
        bf16=ON_GPU,
        use_cpu=not ON_GPU,
        **checkpointing(config.gradient_checkpointing),
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=ON_GPU,
    )
    collator = StockCollator(processor)
    trainer = PlainTrainer(model=model, args=arguments, train_dataset=AllRows(rows), data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    return trainer.timed()


def train_by_swift(swift: Path, config: TrainConfig, rows: Rows, base: Path, folder: Path) -> Trained:
    """`swift sft` on the same samples, as its documentation has it; seconds and loss as it reports them."""
    lines = []
    for k in range(len(rows)):
        row = rows[k]
        messages = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.answer}]
        lines.append(json.dumps({"messages": messages, "images": [str(Path(str(p)).absolute()) for p in row.images]}))
    (folder / "swift.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = folder / "swift"
    flags = {
        "model": base,
        "model_type": "qwen3_5",
        "template": "qwen3_5",
        "dataset": folder / "swift.jsonl",
        "output_dir": out,
        "add_version": "false",
        "tuner_type": "full",
        "torch_dtype": "float32",
        "max_steps": config.max_steps,
        "per_device_train_batch_size": config.per_device_batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "freeze_vit": "false",
        "freeze_aligner": "false",
        "use_cpu": "true",
        "attn_impl": "sdpa",
        "gradient_checkpointing": "false",
        "dataloader_num_workers": config.workers,
        "logging_steps": 1,
        "save_strategy": "no",
        "split_dataset_ratio": 0,
        "report_to": "none",
    }
    pixels = {"MIN_PIXELS": "4096", "MAX_PIXELS": str(config.max_image_pixels)}
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = f"{swift.parent}{os.pathsep}{own.get('PATH', '')}"
    ended = subprocess.run(
        [str(swift), "sft", *(str(each) for name, value in flags.items() for each in (f"--{name}", value))],
        env=own | pixels | {"PATH": path, "HF_HUB_OFFLINE": "1", "USE_HF": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise ValueError(f"ms-swift ended with {ended.returncode}: {ended.stderr.strip().splitlines()[-1][:300]}")
    said = [json.loads(line) for line in (out / "logging.jsonl").read_text(encoding="utf-8").splitlines()]
    total = next(row for row in reversed(said) if "train_runtime" in row)
    return Trained(
        wall_s=float(total["train_runtime"]), cpu_s=float("nan"), waited_s=float("nan"), loss=float(total["train_loss"])
    )


class AllRows(torch.utils.data.Dataset[Row]):
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


@dataclass(frozen=True)
class StockCollator:
    """The stock processor's own call, and labels on what the assistant says."""

    processor: Any

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        tokenizer, texts, images = self.processor.tokenizer, [], []
        for row in rows:
            pieces = row.prompt.split(IMAGE_TOKEN)
            content = [{"type": "text", "text": pieces[0]}]
            for piece in pieces[1:]:
                content += [{"type": "image"}, {"type": "text", "text": piece}]
            said = {"role": "assistant", "content": [{"type": "text", "text": row.answer}]}
            texts.append(tokenizer.apply_chat_template([{"role": "user", "content": content}, said], tokenize=False))
            images.append([Image.open(path).convert("RGB") for path in row.images if isinstance(path, Path)])
        batch = dict(self.processor(text=texts, images=images, padding=True, return_tensors="pt"))
        batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
        begin = tokenizer(ASSISTANT)["input_ids"]
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            windows = ids.unfold(0, len(begin), 1)
            start = int((windows == torch.tensor(begin)).all(dim=1).nonzero()[-1]) + len(begin)
            stop = int((ids == end).nonzero()[-1]) + 1
            labels[start:stop] = ids[start:stop]
        return batch


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A sample's way into a batch: CPU ms, and bytes that a worker hands on."""

    our_ms: float
    our_bytes: int
    stock_ms: float
    stock_bytes: int

    @staticmethod
    def of(rows: Rows, processor: Any) -> Inputs:
        first = [rows[k] for k in range(min(8, len(rows)))]
        stock = StockCollator(processor)
        said = {}
        for name, make in (
            ("our", lambda row: collate([encode(processor, row, with_answer=True)], processor)),
            ("stock", lambda row: stock([row])),
        ):
            make(first[0])
            with clocks() as spent:
                batches = [make(row) for row in first]
            said[f"{name}_ms"] = 1e3 * spent[1] / len(first)
            said[f"{name}_bytes"] = len(pickle.dumps(batches)) // len(first)
        return Inputs(**said)


def start_up(data: Path, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a process that trains the tiny model for one step, its tokenizer and result included."""
    line = [
        "train",
        "train/tiny_demo",
        "max_steps=1",
        "deepspeed=none",
        "--data",
        str(data),
        "--out",
        str(folder / "one"),
    ]
    before = os.times()
    subprocess.run([sys.executable, "-m", "nsdrive.cli", *line], check=True, capture_output=True)
    after = os.times()
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    return after.elapsed - before.elapsed, used_s


# ---- models, clocks, ceilings ----------------------------------------------------------------------------------------


def make_base(rows: Rows, folder: Path) -> Path:
    """The tiny model, and a tokenizer that has read the samples."""
    texts = [text for k in range(len(rows)) for text in (rows[k].prompt, rows[k].answer)]
    build_tiny(folder / "base", texts=[*texts, "user\nassistant\nsystem\n"])
    return folder / "base"


def make_model(config: TrainConfig, base: Path, processor: Any) -> Any:
    """The tiny model, or random weights in a public shape that reads the tiny one's tokens."""
    if config.model == "tiny":
        return load_model(base).train()
    shape = config_of(config.model)
    shape.image_token_id = processor.image_token_id
    for name in ("video_token_id", "vision_start_token_id", "vision_end_token_id"):
        token = f"<|{name.removesuffix('_id').removesuffix('_token').replace('video', 'video_pad')}|>"
        setattr(shape, name, processor.tokenizer.convert_tokens_to_ids(token))
    with torch.device("cuda" if ON_GPU else "cpu"):
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(shape, dtype=torch.float32).train()


def release() -> None:
    """Give back what the last training held: a Trainer and its model refer to each other."""
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()


@contextlib.contextmanager
def clocks() -> Iterator[list[float]]:
    """Wall and CPU seconds of what is done within, there when it is done."""
    spent: list[float] = []
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield spent
    if ON_GPU:
        torch.cuda.synchronize()
    spent += [time.perf_counter() - wall_s, time.process_time() - cpu_s]


def matmul_flops(n_rounds: int = 5) -> float:
    """FLOP/s of a large product: bf16 on a GPU, float32 on a CPU, where the best of some counts."""
    side, dtype, device = (8192, torch.bfloat16, "cuda") if ON_GPU else (1024, torch.float32, "cpu")
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(n_rounds):
        with clocks() as spent:
            for _ in range(20 if ON_GPU else 1):
                a @ b
        best = max(best, (20 if ON_GPU else 1) * 2.0 * side**3 / spent[0 if ON_GPU else 1])
    return best


if __name__ == "__main__":
    main()
