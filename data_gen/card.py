"""The dataset card: what is in the folder, told in numbers and pictures, with a header that dataset hubs read."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from data_gen.sample import LEFT_OUT
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
    label = config["samples"]["label"]
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
        f"planner's own rule evaluations as text and ten waypoints (0.5 s apart, ego frame, metres): {_LABELS[label]} "
        "Of a planner that weighs proposals the record (`nsdrive.trace`) holds every proposal with every score term, and the text "
        "what was chosen, over which, by how much and why. `nsdrive check` replays every text and recomputes every fact.",
        *_about_images(manifest),
        *_about_label(manifest),
        "## Counts",
        *(_table(group, manifest["counts"].get(key, {})) for key, group in _GROUPS.items()),
        *_about_anchors(manifest),
        *_about_pairs(manifest),
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


_LABELS = {  # what the waypoints are, and what the text explains; see data_gen/labels.py
    "rollout": "those that it drove, deciding anew every 0.1 s. The text is its decisions on that drive.",
    "plan": "the first 5 s of the one plan that it made at the anchor. The text is what it says of each half second of that "
    "plan, in the world that a plan assumes: everybody keeps their velocity, lights stay as they are.",
    "human": "those that the human driver of the log drove. **The text does not explain them**: it is the decisions of the "
    "planner on its own drive from the same anchor, which every sample has as `explained`.",
}
_IMAGES = {"recorded": "were taken by the log's own cameras", "rendered": "are drawn by nsdrive's renderer"}
_GROUPS = {
    "split": "split",
    "images": "images",
    "label": "waypoints",
    "planner": "planner",
    "rule": "rule binding at the anchor",
    "scenario_type": "scenario type",
}


def _about_images(manifest: Mapping[str, Any]) -> list[str]:
    """Whose the images are; those of a log are under its licence."""
    counts = manifest["counts"].get("images", {})
    told = [f"the images of {n} samples {_IMAGES[source]}" for source, n in counts.items()]
    if not told:
        return []
    text = f"Images: {', '.join(told)}."
    if counts.get("recorded"):
        text += (
            f" Recorded images are the source's, resized and undistorted, and under its licence: {manifest['licence']}"
        )
    return [text]


def _about_label(manifest: Mapping[str, Any]) -> list[str]:
    """How far a label that is not explained is from what is."""
    rows = manifest.get("label_off_m")
    if not rows:
        return []
    marks = list(next(iter(rows.values())))
    return [
        "How far the waypoints are from the motion that the text explains, in metres, over all samples:",
        "\n".join(
            [
                f"| | {' | '.join(marks)} |",
                "|---" * (len(marks) + 1) + "|",
                *(f"| {name} | {' | '.join(f'{row[mark]:.2f}' for mark in marks)} |" for name, row in rows.items()),
            ]
        ),
    ]


def _about_anchors(manifest: Mapping[str, Any]) -> list[str]:
    """Anchors that make no sample, by reason; and samples that hardly differ."""
    lines = []
    if manifest["left_out"]:
        rows = [f"| {LEFT_OUT[reason]} | {n} |" for reason, n in manifest["left_out"].items()]
        lines.append("\n".join(["| left out because | anchors or edits |", "|---|---|", *rows]))
    if manifest["nearly_same"]:
        lines.append(
            f"{manifest['nearly_same']} samples are of a log's moment less than half a second after another sample's: scenarios of "
            "one log overlap, or anchors are that near to each other."
        )
    return lines


def _about_pairs(manifest: Mapping[str, Any]) -> list[str]:
    """What the edits of minimal pairs are and what they do to the planner."""
    counts = manifest["counts"]
    edits = counts.get("edit", {})
    if not edits:
        return []
    kinds = [counts.get(f"edit_{kind}", {}) for kind in ("moves", "stays", "between")]
    rows = [(sort, [n, *(kind.get(sort, 0) for kind in kinds)]) for sort, n in edits.items()]
    rows.append(("all", [sum(column) for column in zip(*(numbers for _, numbers in rows), strict=True)]))
    table = [
        "| edit | pairs | planner moves by more than 1 m at 3 s | stays within 0.05 m on average up to 3 s | between |",
        "|---" * 5 + "|",
        *(f"| {sort} | {' | '.join(map(str, numbers))} |" for sort, numbers in rows),
    ]
    return [
        "## Minimal pairs",
        "Samples whose id has a `+` are another sample's moment with one thing in its scene changed; `edit` says what, of which "
        "sample, how far the planner's waypoints moved, and whether the images or the prompt show it. The planner is started "
        "afresh at every anchor, before and after; nobody else reacts to an edit.",
        "\n".join(table),
    ]


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
    if image is None:
        raise ValueError(f"{path} is no image that can be read: nsdrive check of the dataset that it is from")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
