"""What an ablation's numbers say, in sentences that claim no more than their intervals; and the table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.open_loop.entries import text_range

AIM_RATIO = 0.55  # detailed over none in ADE@3s: what the paper's own table has at its best
PUBLISHED_ADE_M, PUBLISHED_MR = 0.26, 0.0599  # Neuro-Symbolic Drive (arXiv 2606.23938), 4B, on its own benchmark
ADE, MR = "3s/ADE", "3s/MR"


def verdict(results: Mapping[str, Any]) -> list[str]:
    """One sentence a question: does reasoning help, do the models beat who sees nothing, do they use their images?"""
    return [*_reasoning(results), *_blind(results), *_eyes(results), *_others(results), *_aims(results)]


def ratio(results: Mapping[str, Any], above: str, below: str, measure: str = ADE) -> Mapping[str, Any] | None:
    return next(
        (r for r in results["ratios"] if (r["above"], r["below"], r["measure"]) == (above, below, measure)), None
    )


def direction(found: Mapping[str, Any]) -> int:
    """-1 where the interval of a ratio is all below 1, 1 where all above, 0 where it says neither."""
    if found["low"] is None:
        return 0
    return -1 if found["high"] < 1.0 else 1 if found["low"] > 1.0 else 0


def table(results: Mapping[str, Any]) -> str:
    """Cells by rows, for a terminal."""
    heads = ("cell", "answer", "ADE@3s [m]", "of each seed", "miss rate@3s [%]", "of each seed", "/ none", "failed")
    rows: list[tuple[str, ...]] = [heads]
    for cell, answers in results["cells"].items():
        for answer, found in answers.items():
            rows.append(
                (
                    cell,
                    answer,
                    text_range(found[ADE]),
                    seeds_text(found[ADE]),
                    text_range(found[MR], scale=100.0, digits=1),
                    seeds_text(found[MR], scale=100.0, digits=1),
                    against_none(results, cell, answer),
                    str(sum(found["failed"])),
                )
            )
    for name, found in results["baselines"].items():
        numbers = (text_range(found[ADE]), "", text_range(found[MR], scale=100.0, digits=1))
        rows.append((name, "baseline", *numbers, "", "", ""))
    widths = [max(len(row[k]) for row in rows) for k in range(len(heads))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *(f"* {sentence}" for sentence in verdict(results))])


def best_cells(results: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(cell, answer) of the least ADE@3s, and of all that its interval does not tell apart from it; none where that is all.

    Controls are not among them. Intervals are those over scenarios and seeds both; without one only equal numbers are a tie.
    """
    plain = {
        (cell, answer): found[ADE]
        for cell, answers in results["cells"].items()
        for answer, found in answers.items()
        if "." not in answer
    }
    least = min(plain.values(), key=lambda found: found["value"])
    reach = least["value"] if least["high_with_seeds"] is None else least["high_with_seeds"]
    best = {
        name
        for name, found in plain.items()
        if (found["value"] if found["low_with_seeds"] is None else found["low_with_seeds"]) <= reach
    }
    return set() if len(best) == len(plain) else best


def seeds_text(found: Mapping[str, Any], *, scale: float = 1.0, digits: int = 2) -> str:
    return " ".join(f"{scale * value:.{digits}f}" for value in found["seeds"])


def against_none(results: Mapping[str, Any], cell: str, answer: str, measure: str = ADE) -> str:
    """The ratio to the cell without reasoning, with its interval; to its own cell for a variant."""
    found = next(
        (
            r
            for r in results["ratios"]
            if r["above"] == f"{cell}/{answer}" and r["measure"] == measure and r["kind"] == "reasoning"
        ),
        None,
    )
    return "" if found is None else text_range(found)


def _reasoning(results: Mapping[str, Any]) -> list[str]:
    sentences = []
    for found in results["ratios"]:
        if found["kind"] != "reasoning" or found["measure"] != ADE or found["value"] is None:
            continue
        (cell, answer), (base, _) = (found[side].split("/") for side in ("above", "below"))
        rig, level = cell.split("-")
        says = {
            -1: f"{level} reasoning lowers ADE@3s",
            0: f"{level} reasoning is not told apart from none",
            1: f"{level} reasoning raises ADE@3s",
        }[direction(found)]
        over = (
            "of one seed, which does not tell what another gives"
            if found["low"] is None
            else "over scenarios and seeds"
        )
        ratio = f"{cell} / {base} = {text_range(found)} {over}"
        if all(_loses_to_the_blind(results, f"{side}/{answer}") for side in (cell, base)):
            name, _ = _best_blind(results)
            sentences.append(
                f"{rig} cameras, {answer}: nothing can be said of {level} reasoning: {ratio}, but both are worse than {name}, "
                "which sees nothing"
            )
        else:
            sentences.append(f"{rig} cameras, {answer}: {says}: {ratio}")
    return sentences


def _best_blind(results: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    name, found = min(results["baselines"].items(), key=lambda item: item[1][ADE]["value"])
    return name, found


def _loses_to_the_blind(results: Mapping[str, Any], name: str) -> bool:
    """Whether a cell's answers are worse than the best baseline without images: they say nothing of what helps driving."""
    cell, answer = name.split("/")
    low = results["cells"][cell][answer][ADE]["low_with_seeds"]
    return bool(results["baselines"]) and low is not None and low > _best_blind(results)[1][ADE]["high"]


def _blind(results: Mapping[str, Any]) -> list[str]:
    if not results["baselines"]:
        return []
    name, best = _best_blind(results)
    beaten: list[str] = []
    not_told: list[str] = []
    worse: list[str] = []
    for cell, answers in results["cells"].items():
        for answer, found in answers.items():
            if "." in answer or found[ADE]["low_with_seeds"] is None:
                continue
            low, high = found[ADE]["low_with_seeds"], found[ADE]["high_with_seeds"]
            kind = beaten if high < best[ADE]["low"] else worse if low > best[ADE]["high"] else not_told
            kind.append(f"{cell}/{answer}")
    parts = [
        f"{words}: {', '.join(cells)}"
        for words, cells in (("better", beaten), ("intervals overlap", not_told), ("worse", worse))
        if cells
    ]
    against = f"against {name}, the best baseline without images ({text_range(best[ADE])} m)"
    return [f"{against}: {'; '.join(parts) or 'one seed does not tell'}"]


def _eyes(results: Mapping[str, Any]) -> list[str]:
    blacked = [r for r in results["ratios"] if r["kind"] == "control black" and r["measure"] == ADE]
    if not blacked:
        return []
    uses = [r["below"] for r in blacked if direction(r) > 0]
    rest = [r["below"] for r in blacked if direction(r) <= 0]
    said = [f"larger for {', '.join(uses)}"] if uses else []
    said += [f"not larger, or not told apart, for {', '.join(rest)}"] if rest else []
    return [f"with its images blacked out ADE@3s is {'; '.join(said)}"]


def _others(results: Mapping[str, Any]) -> list[str]:
    words = {"variant": "trained otherwise", "control oracle_text": "given the label's own reasoning"}
    why = {variant["name"]: variant["why"] for variant in results["config"]["variants"]}
    sentences = []
    for found in results["ratios"]:
        if found["kind"] in words and found["measure"] == ADE and found["value"] is not None:
            cell = found["above"].partition("/")[0]
            reason = f" ({why[cell]})" if found["kind"] == "variant" and why.get(cell) else ""
            said = f"{words[found['kind']]}: {found['above']} / {found['below']} = {text_range(found)} in ADE@3s"
            sentences.append(said + reason)
    return sentences


def _aims(results: Mapping[str, Any]) -> list[str]:
    """The three aims of the paper's table, each reached or not by the interval's worse end."""
    best = [
        (cell, answer, found)
        for cell, answers in results["cells"].items()
        for answer, found in answers.items()
        if "." not in answer
    ]
    detailed = [
        r for r in results["ratios"] if r["kind"] == "reasoning" and r["measure"] == ADE and "detailed" in r["above"]
    ]
    told = [r for r in detailed if r["high"] is not None]
    reached = [r for r in told if r["high"] <= AIM_RATIO and not _loses_to_the_blind(results, r["above"])]
    otherwise = "not reached" if told else "not told by one seed" if detailed else "not measured"
    low = [f"{cell}/{answer}" for cell, answer, found in best if _below(found)]
    return [
        f"aim: detailed / none at most {AIM_RATIO} in ADE@3s: "
        + (f"reached by {', '.join(r['above'] for r in reached)}" if reached else otherwise),
        f"aim: ADE@3s below {PUBLISHED_ADE_M} m and miss rate below {100 * PUBLISHED_MR:.2f} %: "
        + (f"reached by {', '.join(low)}" if low else "not reached"),
    ]


def _below(found: Mapping[str, Any]) -> bool:
    highs: Sequence[tuple[float | None, float]] = (
        (found[ADE]["high_with_seeds"], PUBLISHED_ADE_M),
        (found[MR]["high_with_seeds"], PUBLISHED_MR),
    )
    return all(high is not None and high < aim for high, aim in highs)
