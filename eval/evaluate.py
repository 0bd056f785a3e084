"""Predictions files -> results.json and samples.jsonl: every number of the report, each with its interval.

    results["predictions"]["model"]["strict"]["3s"]["ADE"]   -> {"value": 0.31, "low": 0.27, "high": 0.36}
    results["predictions"]["model"]["parsed"]["3s"]["ADE"]   -> the same as the published script counts
    results["predictions"]["model.black"]["control_of"]      -> "model": found beside its file
    results["predictions"]["model"]["by_binding_rule"]["lead"]["strict"]["3s"]["MR"]
    results["baselines"]["blind_idm"]["strict"]["3s"]["ADE"] -> computed here, whatever files were given
    results["paired"][0]                                     -> {"a": "model", "b": "model.black", "p_holm": 0.001, ...}

`strict` counts every sample of the split: an answer that cannot be read, or is missing, is a miss, 10 m off at every
waypoint and 180 deg off in heading. `parsed` is to the last digit what the published release's script says of the same
answers (`eval.open_loop.release_format`); it flatters a model that fails on hard samples, so no headline uses it. What a file
can hold besides one readable row per sample is counted by name (`eval.open_loop.answers`). Same input, same bytes, for any
number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from eval.bootstrap import LEVEL, MAX_CLUSTERS, RESAMPLES, Estimate
from eval.open_loop.answers import Answers, blind_answers, matched
from eval.open_loop.controls import CONTROLS, missing_controls, with_controls
from eval.open_loop.displacement import COLUMNS, FAILED_HEADING_DEG, MEASURES, STATIONARY_STEP_M
from eval.open_loop.entries import Measured, cells, entry_of, groupings_of, overall_of, text_range
from eval.open_loop.labels import Labels, dataset_labels, list_labels, own_labels
from eval.open_loop.predictions_file import PredictionsFile, read_file
from eval.open_loop.samples_file import sample_lines, write_lines
from eval.paired import FLIPS, paired_tests
from eval.texts import PlanScorer, Texts, label_observed, read_texts
from eval.texts import add_to as add_texts
from nsdrive import __version__
from nsdrive.dataset import Dataset, sha256_of, write_atomically
from nsdrive.output_folder import refuse_dataset
from nsdrive.vla.displacement import FAILED_DISPLACEMENT_M, MISS_M

SCORE_VERSION = 2  # raise it whenever the same predictions would get other numbers
FORMAT_VERSION = 2
RESULTS = "results.json"
SAMPLES = "samples.jsonl"
PAIRS = "pairs.jsonl"
PAIRED_MEASURES = ("3s/ADE", "3s/MR")

DEFINITIONS = {
    "ADE": "mean distance of the waypoints up to the horizon from the label's, m",
    "FDE": "distance of the waypoint at the horizon, m",
    "MR": f"share of samples with FDE above {MISS_M} m",
    "AHE": "mean angle between predicted and labelled heading up to the horizon, deg",
    "FHE": "that angle at the horizon, deg",
    "heading": f"direction of the step to a waypoint; a step shorter than {STATIONARY_STEP_M} m keeps the heading before",
    "strict": f"every sample; an answer that is missing, contradicts itself or is not ten finite waypoints counts "
    f"{FAILED_DISPLACEMENT_M} m and {FAILED_HEADING_DEG} deg at every waypoint, and as a miss",
    "parsed": "as the published release's script counts: every answer in which its pattern finds a point, up to as many points "
    "as there are (one point is scored as 3 s), others left out, heading of every step however short",
    "low, high": f"{LEVEL:.0%} interval by cluster bootstrap over scenarios, {RESAMPLES} resamples (more than {MAX_CLUSTERS} "
    "scenarios in that many random bundles); null with one scenario",
    "difference_to_first": "this file minus the first one on the same samples; the interval is of the paired difference",
    "paired": f"strict, a minus b on the same samples; p by flipping whole scenarios ({FLIPS} flips), p_holm corrected for all "
    "pairs of the measure",
    **{f"control: {name}": words for name, words in CONTROLS.items()},
}

MORE = (  # of a terminal's table, where measured: head, results key, measure (docs/measures.md)
    ("true claims", "observed", "claims_true"),
    ("text agrees", "observed", "manoeuvre_consistency"),
    ("PDMS", "pdms", "PDMS"),
    ("EPDMS", "pdms", "EPDMS"),
    ("forced slope", "causal", "forced_slope"),
    ("follows edits", "causal", "edit_faithful"),
    ("stays put", "causal", "invariant_motion"),
)


def evaluate(
    predictions: Sequence[str | Path] | Mapping[str, str | Path],
    dataset: Dataset | str | Path | None,
    out: str | Path,
    *,
    split: str = "test",
    seed: int = 0,
    about: Mapping[str, str] | None = None,
    overwrite: bool = False,
    reasoning: bool = True,
    workers: int = 1,
    probes: Mapping[str, str | Path] | None = None,
    plan_scorer: PlanScorer | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure predictions files against a split; writes `out`/results.json, samples.jsonl and, with probes, pairs.jsonl, and
    returns the results.

    predictions: paths, or name -> path, of any format that `eval.open_loop.predictions_file` reads; controls that lie beside
    them are added (`eval.open_loop.controls`). dataset: an open dataset, a JSON list of items with `messages`, or None for the
    `label` fields of the files themselves. about: name -> one line on what made it ("LoRA on 1 000 samples"), for the report.
    reasoning: check what each text says. probes: name -> answers of `nsdrive probe`; their free answers are rows like any
    other. plan_scorer: what a plan is worth in its scene, term -> number, nan where it does not apply, and in its `failures` why
    the plans of a sample could not be judged, which is a warning; must be picklable with workers > 1. Raises ValueError for
    files none of whose rows belong to the split, an empty split, plans of which none could be judged, an `out` that has results,
    or an input that lies where an output goes.
    """
    out = Path(out)
    if (out / RESULTS).exists() and not overwrite:
        raise ValueError(f"{out} has results. Replace them with --overwrite, or choose another --out")
    refuse_dataset(out)
    probe_files = {name: Path(path) for name, path in (probes or {}).items()}
    named = name_files(predictions) if predictions or not probe_files else {}
    files = with_controls(named)
    for path in (*named.values(), *probe_files.values()):
        if path.resolve() in [(out / name).resolve() for name in (RESULTS, SAMPLES, PAIRS)]:
            raise ValueError(f"{path} is a file that {out} writes anew: rename it, or choose another --out")
    unknown = sorted(set(about or {}) - set(files) - set(probe_files))
    if unknown:
        raise ValueError(f"'about' names {unknown}, but the predictions are called {', '.join([*files, *probe_files])}")
    if probe_files and not isinstance(dataset, Dataset):
        raise ValueError("Probes need the dataset whose questions they answer: give its folder with --data")

    read: dict[str, PredictionsFile] = {}
    unfit: list[str] = []
    for name, (path, _, _) in files.items():
        with _unless_found(name, named, unfit):
            read[name] = read_file(path)
    free = {name: read_file(path, only_free=True) for name, path in probe_files.items() if name not in read}
    labels = _labels(dataset, split, list(read.values()), progress)
    if isinstance(dataset, Dataset) and not read:
        labels = labels.asked_in([file.ids for file in free.values()])
    from_files = []
    for name, file in {**read, **free}.items():
        with _unless_found(name, {**named, **free}, unfit):
            from_files.append(matched(name, file, labels, split))
    files = {name: file for name, file in files.items() if name in {answers.name for answers in from_files}}
    for answers in from_files:
        _, answers.control, answers.control_of = files.get(answers.name, (None, None, None))
    blind = blind_answers(labels, but=read)
    everyone = [*from_files, *blind]
    texts = read_texts(
        everyone, labels, reasoning=reasoning, plan_scorer=plan_scorer, workers=workers, progress=progress
    )

    measured = {answers.name: Measured(answers, labels) for answers in everyone}
    entries = _entries(everyone, measured, texts, labels, seed)
    for answers in from_files:
        path = {**read, **free}[answers.name].path
        entries[answers.name] |= {
            "file": _relative(path, out),
            "sha256": sha256_of(path),
            "probes": answers.name in free,
        }
    for name, entry in entries.items():
        entry["about"] = (about or {}).get(name) or CONTROLS.get(entry["control"] or "")
    causes = None
    if probe_files and isinstance(dataset, Dataset):
        from eval.causes import causes_of

        causes = causes_of(probe_files, dataset, split, labels, texts, seed)
    for name, entry in entries.items():
        entry["causal"] = None if causes is None else causes.cells.get(name)
    at = [COLUMNS.index(measure) for measure in PAIRED_MEASURES]
    results = {
        "format_version": FORMAT_VERSION,
        "score_version": SCORE_VERSION,
        "nsdrive": __version__,
        "seed": seed,
        "dataset": {"folder": _folder(dataset, out), **labels.facts},
        "definitions": DEFINITIONS,
        "units": MEASURES,
        "first": everyone[0].name,
        "predictions": {answers.name: entries[answers.name] for answers in from_files},
        "baselines": {answers.name: entries[answers.name] for answers in blind},
        "paired": paired_tests(
            {name: m.strict[:, at] for name, m in measured.items()},
            PAIRED_MEASURES,
            labels.clusters,
            seed,
            rivals=[answers.name for answers in blind],
        ),
        "label_observed": label_observed(texts, labels, seed),
        "controls_missing": missing_controls(files, dataset.folder, split) if isinstance(dataset, Dataset) else {},
        "validation": None if causes is None else causes.validation,
        "warnings": [
            *unfit,
            *(text for answers in from_files for text in answers.warnings()),
            *texts.warnings(),
            *([] if causes is None else causes.warnings),
        ],
    }
    if overwrite:
        for name in (
            RESULTS,
            PAIRS,
        ):  # killed while it writes, this must leave nothing that could be taken for its results
            (out / name).unlink(missing_ok=True)
    if causes is not None:
        write_lines(out / PAIRS, causes.lines())
    write_lines(out / SAMPLES, _all_lines(everyone, measured, texts, labels))
    write_atomically(out / RESULTS, msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    return results


def name_files(predictions_files: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """A short, unique name for each file: its stem, or its folder's name where the stem only says "predictions"."""
    if isinstance(predictions_files, Mapping):
        files = {str(name): Path(path) for name, path in predictions_files.items()}
    else:
        paths = [Path(path) for path in predictions_files]
        plain = [p.resolve().parent.name if p.stem == "predictions" else p.stem for p in paths]
        longer = [f"{p.resolve().parent.name}/{p.stem}" for p in paths]
        files = {}
        for path, short, long in zip(paths, plain, longer, strict=True):
            name = short if plain.count(short) == 1 else long
            if name in files:
                raise ValueError(f"Two predictions files are called '{name}': rename one of {files[name]} and {path}")
            files[name] = path
    if not files:
        raise ValueError("No predictions files given")
    return files


def table(results: Mapping[str, Any], horizon: str = "3s") -> str:
    """The headline as plain text, for a terminal: strict, with intervals, the parsed ADE beside it, and what else was measured."""
    entries = {**results["predictions"], **results["baselines"]}
    more = [one for one in MORE if any(_value(entry, *one[1:]) is not None for entry in entries.values())]
    heads = ("", f"ADE@{horizon} [m]", f"FDE@{horizon} [m]", f"MR@{horizon} [%]", "parsed ADE [m]", "failed", "n")
    rows = [(*heads, *(words for words, _, _ in more))]
    for name, entry in entries.items():
        strict, parsed = entry["strict"][horizon], entry["parsed"][horizon]
        rows.append(
            (
                name,
                text_range(strict["ADE"]),
                text_range(strict["FDE"]),
                text_range(strict["MR"], scale=100.0, digits=1),
                "-" if parsed["ADE"]["value"] is None else f"{parsed['ADE']['value']:.2f}",
                str(entry["parse_failures"]),
                str(entry["n"]),
                *("-" if (v := _value(entry, kind, key)) is None else f"{v:.2f}" for _, kind, key in more),
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for name, commands in results["controls_missing"].items():
        lines.append(
            f"{name}: {len(commands)} control{'s' if len(commands) > 1 else ''} not run, for example\n  {commands[0]}"
        )
    return "\n".join([*lines, *(f"warning: {text}" for text in results["warnings"])])


def _value(entry: Mapping[str, Any], kind: str, name: str) -> float | None:
    if kind == "observed" and not entry["texts"]:
        return None
    value: float | None = ((entry.get(kind) or {}).get(name) or {}).get("value")
    return value


# ---- the run as a whole ---------------------------------------------------------------------------------------------


@contextmanager
def _unless_found(name: str, named: Collection[str], unfit: list[str]) -> Iterator[None]:
    """A file that somebody named must be fit to be measured; one that was only found beside it is left out with a warning."""
    try:
        yield
    except ValueError as error:
        if name in named:
            raise
        unfit.append(f"{name}: not measured: {error}")


def _labels(
    dataset: Dataset | str | Path | None,
    split: str,
    files: Sequence[PredictionsFile],
    progress: Callable[[int, int], None],
) -> Labels:
    if isinstance(dataset, Dataset):
        return dataset_labels(dataset, split, progress)
    return own_labels(files) if dataset is None else list_labels(Path(dataset))


def _entries(
    everyone: Sequence[Answers], measured: Mapping[str, Measured], texts: Texts, labels: Labels, seed: int
) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    first: Estimate | None = None
    groupings = groupings_of(labels, seed)
    for answers in everyone:
        overall = overall_of(measured[answers.name], labels, seed)
        entry = entry_of(answers, measured[answers.name], overall, labels, groupings, seed)
        add_texts(entry, answers.name, texts, labels, seed)
        if first is None:
            first = overall
        else:
            entry["difference_to_first"] = cells(overall.minus(first))
        entries[answers.name] = entry
    return entries


def _all_lines(
    everyone: Sequence[Answers], measured: Mapping[str, Measured], texts: Texts, labels: Labels
) -> Iterator[bytes]:
    for answers in everyone:
        yield from sample_lines(answers, measured[answers.name].strict, labels, texts.told(answers.name))


def _folder(dataset: Dataset | str | Path | None, out: Path) -> str | None:
    if dataset is None:
        return None
    return _relative(dataset.folder if isinstance(dataset, Dataset) else Path(dataset), out)


def _relative(path: Path, out: Path) -> str:
    """The path from the output folder, so that a report finds it when both are moved together."""
    return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()
