"""The verbs of the command line that learn and answer, from what was typed to what is printed.

Each imports torch only when it runs.
"""

from __future__ import annotations

import argparse
import os


def run_train(a: argparse.Namespace) -> int:
    from nsdrive.config import load_config
    from nsdrive.vla.train import TrainConfig, train

    config = load_config(TrainConfig, a.config, a.overrides)
    if a.dry_run:
        from nsdrive.vla.forecast.forecast import forecast

        if a.data is not None and a.cameras is not None:
            raise ValueError(f"--cameras is for a forecast without --data: {a.data} says how many a sample has")
        cameras = 3 if a.cameras is None else a.cameras
        print(forecast(config, a.data, processes=a.gpus, gpu_memory_gb=a.gpu_memory_gb, cameras=cameras))
        return 0
    if (a.gpus, a.gpu_memory_gb, a.cameras) != (1, None, None):
        raise ValueError(
            "--gpus, --gpu-memory-gb and --cameras are for --dry-run; "
            "a run on N GPUs: torchrun --nproc_per_node N -m nsdrive.cli train ..."
        )
    for name in ("data", "out"):
        if getattr(a, name) is None:
            raise ValueError(f"--{name} is needed to train (it is not for --dry-run)")
    summary = train(config, dataset=a.data, out=a.out, resume=a.resume, overwrite=a.overwrite)
    if os.environ.get("RANK", "0") == "0":
        print(summary)
    return 0


def run_predict(a: argparse.Namespace) -> int:
    from nsdrive.progress import Progress
    from nsdrive.vla.infer import predict

    with Progress("samples") as progress:
        done = predict(
            a.model,
            dataset=a.data,
            split=a.split,
            out=a.out,
            batch_size=a.batch_size,
            constrained=not a.unconstrained,
            control=a.control,
            limit=a.limit,
            resume=a.resume,
            engine=a.engine,
            workers=a.workers,
            tensor_parallel=a.tensor_parallel,
            mode=a.mode,
            best_of=a.best_of,
            temperature=a.temperature,
            seed=a.seed,
            max_reasoning_tokens=a.max_reasoning_tokens,
            trust_remote_code=a.trust_remote_code,
            allow_slow_kernels=a.allow_slow_kernels,
            progress=progress,
        )
    print(done)
    return 0


def run_pack(a: argparse.Namespace) -> int:
    from nsdrive.progress import Progress
    from nsdrive.vla.data.shards import pack

    with Progress("shards") as progress:
        done = pack(
            a.dataset,
            a.out,
            samples_per_shard=a.samples_per_shard,
            workers=a.workers,
            seed=a.seed,
            resume=a.resume,
            overwrite=a.overwrite,
            progress=progress,
        )
    print(done)
    return 0


def run_quiz(a: argparse.Namespace) -> int:
    from nsdrive.progress import Progress
    from nsdrive.vla.model import quiet_libraries
    from nsdrive.vla.perceiving import perceiving

    quiet_libraries()
    with Progress("questions") as progress:
        seen = perceiving(
            a.model,
            dataset=a.data,
            split=a.split,
            limit=a.limit,
            batch_size=a.batch_size,
            trust_remote_code=a.trust_remote_code,
            allow_slow_kernels=a.allow_slow_kernels,
            progress=progress,
        )
    print(seen)
    return 0
