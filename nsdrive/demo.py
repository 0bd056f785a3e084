"""The demo: the command lines that a user would type, in order. `nsdrive demo` prints and runs each."""

from __future__ import annotations

from pathlib import Path

ABOUT = (
    "tiny_vla=Qwen3.5 architecture with 1.5 M parameters, from random weights, trained for minutes on this machine",
    "tiny_vla.black=the same model with its images blacked out: what ego history and command alone give",
)
BASELINES = ("constant_velocity", "constant_acceleration", "blind_idm", "oracle")


def steps(out: Path, *, workers: int) -> list[list[str]]:
    """Command lines from nothing to a report, all output below `out`."""
    data, run, predictions = str(out / "data"), out / "run", out / "predictions"
    model = [
        [
            "predict",
            "--batch-size",
            "40",
            "--model",
            str(run / "model"),
            "--data",
            data,
            "--out",
            str(predictions / "tiny_vla.jsonl"),
        ]
    ]
    blind = [[*model[0][:-1], str(predictions / "tiny_vla.black.jsonl"), "--control", "black"]]
    baselines = [["baseline", name, "--data", data, "--out", str(predictions / f"{name}.jsonl")] for name in BASELINES]
    files = [*(line[line.index("--out") + 1] for line in (*model, *blind, *baselines))]
    return [
        ["generate", "data/demo", "--out", data, "--workers", str(workers)],
        ["check", data, "--workers", str(workers)],
        ["train", "train/tiny_demo", "--data", data, "--out", str(run)],
        *model,
        *blind,
        *baselines,
        ["evaluate", "--predictions", *files, "--data", data, "--out", str(out / "evaluation"), "--about", *ABOUT],
        ["report", str(out / "evaluation"), "--out", str(out / "report")],
    ]
