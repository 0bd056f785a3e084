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
            trust_remote_code=a.trust_remote_code,
            progress=progress,
        )
    print(done)
    return 0
