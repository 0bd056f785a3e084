"""The card of a dataset of questions about images: what is asked how often, with an example of each topic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from data_gen.perception_questions import CLEARLY, LAMP_SHARE, LEAD_WITHIN_M, SEEN_SHARE
from nsdrive.dataset import SPLITS, Dataset, write_atomically

ABOUT = {  # topic -> what it asks, in words
    "lead": f"what is next on our way, within {LEAD_WITHIN_M:.0f} m",
    "lead_distance": "how far that is, between the nearest points of the boxes",
    "lead_bearing": "where its middle is, in degrees beside our heading",
    "lead_visibility": "whether it is a vehicle that is seen whole",
    "light": "what the traffic light for our way shows",
    "lane": "which of the lanes of our direction is ours",
    "nearest": "the nearest road user: what, how far, where",
    "count_vehicles": "vehicles in an image",
    "count_cyclists": "cyclists in an image",
    "count_pedestrians": "pedestrians in an image",
    "count_vehicles_around": "vehicles in all images together",
    "count_cyclists_around": "cyclists in all images together",
    "count_pedestrians_around": "pedestrians in all images together",
}


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write README.md from the finished shards. Deterministic: no dates, no machine."""
    write_atomically(folder / "README.md", card_text(manifest, _examples(folder, manifest)))


def card_text(manifest: Mapping[str, Any], examples: Mapping[str, Mapping[str, Any]]) -> str:
    """The card as Markdown. examples: topic -> a row that asks about it."""
    counts = manifest["counts"]
    header = yaml.safe_dump(
        {
            "pretty_name": f"nsdrive perception questions: {manifest['source']}",
            "tags": ["autonomous-driving", "visual-question-answering", "nsdrive"],
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [
                        {"split": split, "path": f"{split}-*.jsonl"} for split in SPLITS if counts["split"][split]
                    ],
                }
            ],
        },
        sort_keys=False,
    )
    asked = [
        f"| {topic} | {ABOUT.get(topic, '')} | {n} | {counts['nothing'].get(topic, 0)} |"
        for topic, n in counts["topic"].items()
    ]
    lines = [
        f"---\n{header}---",
        f"# Questions about driving images: {manifest['source']}",
        f"{manifest['samples']} questions about the images of {manifest['of_samples']} driving samples. Made by nsdrive "
        f"{manifest['nsdrive']}. Source and licence of the scenes and images: {manifest['licence']}",
        "The answers follow from what is stored of the scene: boxes, drawn pixels, the planner's lead, the map. Nothing is asked "
        f"that the image cannot tell: a thing must cover at least {SEEN_SHARE * 100:.1f} % of the image, a light's lamps "
        f"{LAMP_SHARE * 100:.2f} %; counts are not asked where a thing covers between {1 / CLEARLY:.2f} and {CLEARLY:.2f} times "
        "that much. Distances are in metres, with one decimal; directions in whole degrees. Of answers that there is nothing, no "
        "more are kept of a topic than there are others. `nsdrive check` makes every answer again from its facts.",
        _without(manifest),
        "## Counts",
        "\n".join(["| split | questions |", "|---|---|", *(f"| {s} | {n} |" for s, n in counts["split"].items())]),
        "\n".join(["| topic | asks | questions | of them with nothing there |", "|---|---|---|---|", *asked]),
        "## Examples",
        "\n".join(
            [
                "| topic | images | question | answer |",
                "|---|---|---|---|",
                *(_example(topic, row) for topic, row in sorted(examples.items())),
            ]
        ),
        "## Format",
        "One JSON object a line: `messages` and `images` (paths relative to this folder) for any chat trainer; under `nsdrive` "
        "the driving sample it is from, the cameras, the topic and the facts. Splits are the source's. `manifest.json` has "
        "the sha256 of every file.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _without(manifest: Mapping[str, Any]) -> str:
    n = manifest["without_scene"]
    return f"Of {n} samples the map was not at hand: nothing is asked of their lights and lanes." if n else ""


def _example(topic: str, row: Mapping[str, Any]) -> str:
    question, answer = (turn["content"] for turn in row["messages"])
    cameras = ", ".join(row["nsdrive"]["cameras"])
    return f"| {topic} | {cameras} | {question.rpartition(chr(10))[2]} | {answer} |"


def _examples(folder: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The first question of each topic, rather one whose answer is not that there is nothing."""
    dataset, wanted = Dataset(folder=folder, manifest=manifest), set(manifest["counts"]["topic"])
    found: dict[str, dict[str, Any]] = {}
    full: set[str] = set()
    for split in SPLITS:
        for _, row in dataset.rows(split):
            topic = row["nsdrive"]["topic"]
            if topic not in found or (topic not in full and row["messages"][1]["content"] not in ("0", "none")):
                found[topic] = row
            if row["messages"][1]["content"] not in ("0", "none"):
                full.add(topic)
            if full == wanted:
                return found
    return found
