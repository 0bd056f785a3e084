"""The dataset card: what is in the folder, told in numbers and pictures, with a header that dataset hubs read."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from nsdrive.cameras.render import encode_jpeg
from nsdrive.dataset import SPLITS, Dataset, Sample, inside, write_atomically
from nsdrive.draw import contact_sheet

EXAMPLES = 3  # one per binding rule, the first that occur


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write README.md and card/*.jpg from the finished shards. Deterministic: no dates, no machine."""
    examples = _examples(folder, manifest)
    pictures = []
    for number, sample in enumerate(examples):
        name = f"card/example_{number}.jpg"
        views = {Path(image).stem: _read_rgb(inside(folder, image)) for image in sample.images}
        write_atomically(folder / name, encode_jpeg(contact_sheet(views), 90))
        pictures.append((name, sample))
    write_atomically(folder / "README.md", card_text(manifest, pictures))


def card_text(manifest: Mapping[str, Any], pictures: list[tuple[str, Sample]]) -> str:
    """The card as Markdown."""
    config = manifest["config"]
    header = yaml.safe_dump(
        {
            "pretty_name": f"nsdrive {manifest['source']} ({config['samples']['trace_level']}, rig {config['rig']})",
            "tags": ["autonomous-driving", "vision-language-action", "reasoning", "nsdrive"],
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [
                        {"split": split, "path": f"{split}-*.jsonl"}
                        for split in SPLITS
                        if manifest["counts"]["split"][split]
                    ],
                }
            ],
        },
        sort_keys=False,
    )
    lines = [
        f"---\n{header}---",
        f"# Rule-grounded driving samples: {manifest['source']}",
        f"{manifest['samples']} samples from {manifest['scenarios']} scenarios; {len(manifest['failures'])} scenarios failed. "
        f"Made by nsdrive {manifest['nsdrive']}. Source and licence of the scenes: {manifest['licence']}",
        "A rule-based planner drives; every sample pairs camera images, ego history and a navigation command with the "
        "planner's own rule evaluations as text and the ten waypoints that it drove (0.5 s apart, ego frame, metres). "
        "Of a planner that weighs proposals the record (`nsdrive.trace`) holds every proposal with every score term, and the text "
        "what was chosen, over which, by how much and why. `nsdrive check` replays every text and recomputes every fact.",
        "## Counts",
        *(_table(group, manifest["counts"].get(key, {})) for key, group in _GROUPS.items()),
        "## Examples",
    ]
    for name, sample in pictures:
        lines += [
            f"### `{sample.sample_id}`: {sample.scenario_type}, decided by {sample.binding_rule}",
            f"![cameras]({name})",
            f"<pre>{html.escape(sample.answer)}</pre>",
        ]
    lines += [
        "## Format",
        "One JSON object a line in `train-*.jsonl`, `val-*.jsonl`, `test-*.jsonl`: `messages` and `images` (paths relative "
        "to this folder) for any chat trainer, everything else under `nsdrive`. Splits are by scenario. "
        "`manifest.json` has the sha256 of every file and the resolved config.",
    ]
    return "\n\n".join(lines) + "\n"


_GROUPS = {
    "split": "split",
    "planner": "planner",
    "rule": "rule binding at the anchor",
    "scenario_type": "scenario type",
}


def _table(title: str, counts: Mapping[str, int]) -> str:
    rows = [f"| {name} | {n} |" for name, n in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))]
    return "\n".join([f"| {title} | samples |", "|---|---|", *rows])


def _examples(folder: Path, manifest: Mapping[str, Any]) -> list[Sample]:
    dataset = Dataset(folder=folder, manifest=manifest)
    chosen: dict[str, Sample] = {}
    for split in SPLITS:
        for sample in dataset.samples(split):
            chosen.setdefault(sample.binding_rule, sample)
            if len(chosen) == EXAMPLES:
                return list(chosen.values())
    return list(chosen.values())


def _read_rgb(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, f"{path} was just written"
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
