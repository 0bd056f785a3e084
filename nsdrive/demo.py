"""The demo: the command lines that a user would type, in order. `nsdrive demo` prints and runs each."""

from __future__ import annotations

from pathlib import Path

from nsdrive.arguments import CONTROLS

ABOUT = (
    "box=the model that comes with nsdrive, 3.5 M parameters, as it is",
    "box_head=the same by its trajectory head: one forward, no text",
    "tuned=the same after a minute more on the demo's own samples, on this machine",
    "tuned_head=that by its trajectory head",
)
BASELINES = ("constant_velocity", "constant_acceleration", "blind_idm", "oracle")
PLANTED = ("faithful", "shuffled_text", "ignores_text", "ignores_images", "blind")


def steps(out: Path, *, workers: int) -> list[list[str]]:
    """Command lines from nothing to a report, all output below `out`."""
    data, pairs, run, predictions, probes = (
        str(out / name) for name in ("data", "pairs", "run", "predictions", "probes")
    )
    asked = ["--model", f"{run}/model", "--batch-size", "40"]
    predict = ["predict", *asked, "--data", data]
    box = ["predict", "--model", "box", "--batch-size", "40", "--data", data]
    predicted = [
        [*box, "--out", f"{predictions}/box.jsonl"],
        [*box, "--mode", "head", "--out", f"{predictions}/box_head.jsonl"],
        [*predict, "--out", f"{predictions}/tuned.jsonl"],
        [*predict, "--mode", "head", "--out", f"{predictions}/tuned_head.jsonl"],
        *([*predict, "--control", each, "--out", f"{predictions}/tuned.{each}.jsonl"] for each in CONTROLS),
        *(["baseline", name, "--data", data, "--out", f"{predictions}/{name}.jsonl"] for name in BASELINES),
    ]
    probed = [
        ["probe", *asked, "--data", pairs, "--out", f"{probes}/tuned.jsonl"],
        *(["probe", "--planted", name, "--data", pairs, "--out", f"{probes}/{name}.jsonl"] for name in PLANTED),
    ]
    files, asked_files = ([line[line.index("--out") + 1] for line in lines] for lines in (predicted, probed))
    return [
        ["generate", "data/demo", "--out", data, "--workers", str(workers)],
        ["check", data, "--workers", str(workers)],
        ["train", "train/box_demo", "--data", data, "--out", run],
        *predicted,
        ["evaluate", "--predictions", *files, "--data", data, "--out", str(out / "evaluation"), "--about", *ABOUT],
        ["generate", "data/demo_pairs", "--out", pairs, "--workers", str(workers)],
        *probed,
        ["evaluate", "--probes", *asked_files, "--data", pairs, "--out", str(out / "faithfulness")],
        ["report", run, str(out / "evaluation"), str(out / "faithfulness"), "--out", str(out / "report")],
    ]
