"""The demo: the command lines that a user would type, in order. `nsdrive demo` prints and runs each."""

from __future__ import annotations

from pathlib import Path

ABOUT = (
    "tiny_vla=Qwen3.5 architecture with 1.5 M parameters, from random weights, trained for minutes on this machine",
    "tiny_vla.black=the same model with its images blacked out: what ego history and command alone give",
)
BASELINES = ("constant_velocity", "constant_acceleration", "blind_idm", "oracle")
PLANTED = ("faithful", "shuffled_text", "ignores_text", "ignores_images", "blind")
FEW_SCENES = "2"  # of the model's probes: it thinks for a second or two, and is asked some twenty questions a scene


def steps(out: Path, *, workers: int) -> list[list[str]]:
    """Command lines from nothing to a report, all output below `out`."""
    data, pairs, run, predictions, probes = (
        str(out / name) for name in ("data", "pairs", "run", "predictions", "probes")
    )
    asked = ["--model", f"{run}/model", "--batch-size", "40"]
    predicted = [
        ["predict", *asked, "--data", data, "--out", f"{predictions}/tiny_vla.jsonl"],
        ["predict", *asked, "--data", data, "--out", f"{predictions}/tiny_vla.black.jsonl", "--control", "black"],
        *(["baseline", name, "--data", data, "--out", f"{predictions}/{name}.jsonl"] for name in BASELINES),
    ]
    probed = [
        ["probe", *asked, "--data", pairs, "--limit", FEW_SCENES, "--out", f"{probes}/tiny_vla.jsonl"],
        *(["probe", "--planted", name, "--data", pairs, "--out", f"{probes}/{name}.jsonl"] for name in PLANTED),
    ]
    files, asked_files = ([line[line.index("--out") + 1] for line in lines] for lines in (predicted, probed))
    return [
        ["generate", "data/demo", "--out", data, "--workers", str(workers)],
        ["check", data, "--workers", str(workers)],
        ["train", "train/tiny_demo", "--data", data, "--out", run],
        *predicted,
        ["evaluate", "--predictions", *files, "--data", data, "--out", str(out / "evaluation"), "--about", *ABOUT],
        ["generate", "data/demo_pairs", "--out", pairs, "--workers", str(workers)],
        *probed,
        ["evaluate", "--probes", *asked_files, "--data", pairs, "--out", str(out / "faithfulness")],
        ["report", str(out / "evaluation"), str(out / "faithfulness"), "--out", str(out / "report")],
    ]
