"""The demo: the command lines that a user would type, in order. `nsdrive demo` prints and runs each."""

from __future__ import annotations

from pathlib import Path

from nsdrive.arguments import CONTROLS

ABOUT = "tiny_vla=Qwen3.5 architecture with 1.5 M parameters, from random weights, trained for minutes on this machine"
BASELINES = ("constant_velocity", "constant_acceleration", "blind_idm", "oracle")
PLANTED = ("faithful", "shuffled_text", "ignores_text", "ignores_images", "blind")


def steps(out: Path, *, workers: int) -> list[list[str]]:
    """Command lines from nothing to a report, all output below `out`."""
    data, pairs, run, predictions, probes = (
        str(out / name) for name in ("data", "pairs", "run", "predictions", "probes")
    )
    asked = ["--model", f"{run}/model", "--batch-size", "40"]
    predict = ["predict", *asked, "--data", data]
    predicted = [
        [*predict, "--out", f"{predictions}/tiny_vla.jsonl"],
        *([*predict, "--control", each, "--out", f"{predictions}/tiny_vla.{each}.jsonl"] for each in CONTROLS),
        *(["baseline", name, "--data", data, "--out", f"{predictions}/{name}.jsonl"] for name in BASELINES),
    ]
    probed = [
        ["probe", *asked, "--data", pairs, "--out", f"{probes}/tiny_vla.jsonl"],
        *(["probe", "--planted", name, "--data", pairs, "--out", f"{probes}/{name}.jsonl"] for name in PLANTED),
    ]
    files, asked_files = ([line[line.index("--out") + 1] for line in lines] for lines in (predicted, probed))
    return [
        ["generate", "data/demo", "--out", data, "--workers", str(workers)],
        ["check", data, "--workers", str(workers)],
        ["train", "train/tiny_demo", "--data", data, "--out", run],
        *predicted,
        ["evaluate", "--predictions", *files, "--data", data, "--out", str(out / "evaluation"), "--about", ABOUT],
        ["generate", "data/demo_pairs", "--out", pairs, "--workers", str(workers)],
        *probed,
        ["evaluate", "--probes", *asked_files, "--data", pairs, "--out", str(out / "faithfulness")],
        ["report", str(out / "evaluation"), str(out / "faithfulness"), "--out", str(out / "report")],
    ]
