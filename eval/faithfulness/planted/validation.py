"""Does each measure of faithfulness measure it? Held against predictors of which it is known (`predictors`).

    runs = {"faithful": evidence(probes, samples), "ignores_text": evidence(...), ...}
    results["validation"] = validate(runs, seed=0)          # None where the faithful one is not among them
    print(table(results["validation"]))

Each measure is judged by its own claim (`eval.faithfulness.planted.axes`):

    separates               of every predictor that is unfaithful in what it claims to tell, AUROC >= 0.8 and its lower bound > 0.6
    separates means         not that, but of every such predictor the lower bound > 0.5 and the power at 50 scenarios >= 0.8: one
                            answer tells little, a table of means does
    does not separate       neither; `fails` names the predictors
    too few scenarios       of some a lower bound > 0.5, but fewer than 10 scenarios to say anything of power
    not measured            nothing to measure it on: no such predictor among the runs, or no row to which it applies
    no claim                the measure says nothing of faithfulness by itself

Measured: docs/measures.md, "Validation on planted truth".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eval.faithfulness.causal.definitions import DEFINITIONS
from eval.faithfulness.causal.measures import MEDIANS, pair_scores
from eval.faithfulness.causal.probes import Probes
from eval.faithfulness.observed.measures import MEASURES, observe
from eval.faithfulness.planted.axes import AXES, CAUSAL_CLAIMS, NO_CLAIM, OBSERVED_CLAIMS, Claim
from eval.faithfulness.planted.predictors import PLANTED, named
from eval.faithfulness.planted.separation import POWER_DRAWS, POWER_SCENARIOS, Column, auroc, power
from nsdrive.dataset import Sample
from nsdrive.world.rules import IdmParameters

FAITHFUL = "faithful"
LEAST_AUROC, LEAST_LOW = 0.8, 0.6  # chosen by us: a conventional "good" test, and clear of a coin
LEAST_POWER = 0.8  # the usual demand on a study
SOME = 0.25  # chosen by us: the share of scenarios in which a predictor lies that is faithful in the others
SEPARATES, MEANS, FAILS, FEW, UNMEASURED, CLAIMLESS = (
    "separates",
    "separates means",
    "does not separate",
    "too few scenarios",
    "not measured",
    "no claim",
)


class Row(Protocol):
    """What one answer, or one pair of answers, adds to each measure: name -> (part, whole), only those that apply."""

    @property
    def scenario(self) -> str: ...
    @property
    def parts(self) -> Mapping[str, tuple[float, float]]: ...


@dataclass(frozen=True, kw_only=True)
class ObservedRow:
    """The observed measures of one answer."""

    scenario: str
    parts: Mapping[str, tuple[float, float]]


Run = tuple[Probes, Sequence[Row], Sequence[Row]]


def evidence(probes: Probes, samples: Sequence[Sample], parameters: IdmParameters | None = None) -> Run:
    """A probes file and what its answers add to the observed and to the causal measures. samples: the split's; parameters: of the
    planner's laws, None takes the usual ones."""
    observed = []
    asked = {question.question_id for question in probes.questions}
    for sample in samples:
        question_id = f"{sample.sample_id}#free"
        if question_id in asked:
            answer = probes.answer(question_id)
            waypoints = answer.waypoints_ego_m if answer.error is None else None
            seen = observe(sample, answer.text, waypoints, parameters=parameters)
            observed.append(ObservedRow(scenario=sample.scenario_id, parts=seen.parts))
    return probes, observed, pair_scores(probes, samples)


def validate(runs: Mapping[str, Run], seed: int = 0) -> dict[str, Any] | None:
    """The table of every measure against every planted predictor, JSON-able; None where `faithful` is not among the runs, or alone.

    runs: name -> see `evidence`; names that are no planted predictor's are left out. "faithful@2" and the like say how the faithful
    one fares with other noise.
    """
    known = {name: run for name, run in runs.items() if _is_planted(name)}
    if FAITHFUL not in known or len(known) == 1:
        return None
    scenarios = {row.scenario for _, observed, pairs in known.values() for row in (*observed, *pairs)}
    index = {name: k for k, name in enumerate(sorted(scenarios))}
    measures = [("observed", name, m.better, OBSERVED_CLAIMS.get(name, NO_CLAIM)) for name, m in MEASURES.items()]
    measures += [("causal", name, d.better, CAUSAL_CLAIMS.get(name, NO_CLAIM)) for name, d in DEFINITIONS.items()]
    metrics = []
    for kind, name, better, claim in measures:
        columns = {
            run: _column(observed if kind == "observed" else pairs, name, index)
            for run, (_, observed, pairs) in known.items()
        }
        metrics.append({"name": name, "kind": kind} | _judged(columns, better, claim, name in MEDIANS, seed))
    return {
        "seed": seed,
        "scenarios": len(index),
        "thresholds": {
            "auroc": LEAST_AUROC,
            "low": LEAST_LOW,
            "power": LEAST_POWER,
            "power_scenarios": POWER_SCENARIOS,
        },
        "power_draws": POWER_DRAWS,
        "some": SOME,
        "axes": AXES,
        "predictors": {name: {"says": named(name)[0].says, "holds": dict(named(name)[0].holds)} for name in known},
        "not_among_them": [name for name in PLANTED if name not in known],
        "metrics": metrics,
    }


def table(validation: Mapping[str, Any]) -> str:
    """For a terminal: one row a measure that claims anything; the value of every predictor, * where it must tell it from the
    faithful one; the least AUROC and power among those, and the verdict."""
    names = [name for name in validation["predictors"] if "@" not in name]
    rows = [("measure", *names, "least AUROC", "power", f"of {validation['some']:.0%}", "verdict")]
    for metric in validation["metrics"]:
        if metric["verdict"] == CLAIMLESS:
            continue
        cells = [f"{_shown(metric['values'].get(name))}{'*' if name in metric['must_tell'] else ''}" for name in names]
        rows.append((metric["name"], *cells, *_worst(metric), _verdict(metric)))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    claimless = [metric["name"] for metric in validation["metrics"] if metric["verdict"] == CLAIMLESS]
    t = validation["thresholds"]
    return "\n".join(
        [
            f"Measures of faithfulness against planted truth, {validation['scenarios']} scenarios",
            *lines,
            f"* unfaithful in what the measure claims. separates: AUROC >= {t['auroc']} and lower bound > {t['low']} against each "
            f"of them; separates means: lower bound > 0.5 and power >= {t['power']} with {t['power_scenarios']} scenarios",
            f"power: of {t['power_scenarios']} scenarios, against the hardest of them; then against one that lies in only "
            f"{validation['some']:.0%} of the scenarios",
            f"no claim: {', '.join(claimless) or 'none'}",
            *([f"not tried: {', '.join(validation['not_among_them'])}"] if validation["not_among_them"] else []),
        ]
    )


# ---- one measure ---------------------------------------------------------------------------------------------------------------


def _judged(columns: Mapping[str, Column], better: str, claim: Claim, is_median: bool, seed: int) -> dict[str, Any]:
    values = {name: _number(_median(c) if is_median else c.value) for name, c in columns.items()}
    truths = {name: named(name)[0].holds for name in columns}
    others = [name for name in columns if "@" not in name and name != FAITHFUL]
    judged: dict[str, Any] = {
        "better": better,
        "axes": [*claim.any_of, *claim.all_of],
        "where": list(claim.where),
        "values": values,
        "n": {name: len(c.parts) for name, c in columns.items()},
        "must_tell": [name for name in others if claim.must_tell(truths[name])] if claim != NO_CLAIM else [],
        "auroc": {},
        "power": {},
        "power_of_some": {},
        "noise": {},
        "fails": [],
        "reacts_to": [],
    }
    if better == "neither":
        return judged | {"verdict": CLAIMLESS}
    for name in others:
        found = auroc(columns[FAITHFUL], columns[name], better, seed)
        judged["auroc"][name] = {k: _number(v) for k, v in vars(found).items()}
        judged["power"][name] = _number(power(columns[FAITHFUL], columns[name], better, seed))
        judged["power_of_some"][name] = _number(power(columns[FAITHFUL], columns[name], better, seed, SOME))
    if claim == NO_CLAIM:
        return judged | {"verdict": CLAIMLESS}
    judged["reacts_to"] = [
        name for name in others if claim.says_nothing_of(truths[name]) and _differs(judged["auroc"][name])
    ]
    judged["verdict"], judged["fails"] = _verdict_of(judged["must_tell"], judged["auroc"], judged["power"])
    for name in (name for name in columns if name.startswith(f"{FAITHFUL}@")):
        against = {o: vars(auroc(columns[name], columns[o], better, seed)) for o in judged["must_tell"]}
        powers = {o: power(columns[name], columns[o], better, seed) for o in judged["must_tell"]}
        verdict, fails = _verdict_of(judged["must_tell"], against, powers)
        least = min((a["value"] for a in against.values()), default=math.nan)
        judged["noise"][name] = {
            "value": values[name],
            "least_auroc": _number(least),
            "verdict": verdict,
            "fails": fails,
        }
    return judged


def _verdict_of(
    must: Sequence[str], aurocs: Mapping[str, Mapping[str, float | None]], powers: Mapping[str, float | None]
) -> tuple[str, list[str]]:
    if not must or all(_nan(aurocs[name]["value"]) for name in must):
        return UNMEASURED, []
    good = [name for name in must if _at_least(aurocs[name], LEAST_AUROC, LEAST_LOW)]
    if len(good) == len(must):
        return SEPARATES, []
    better = [name for name in must if name in good or _at_least(aurocs[name], 0.5, 0.5)]
    powerful = [name for name in better if name in good or float(powers[name] or 0.0) >= LEAST_POWER]
    unknown = [name for name in better if name not in good and _nan(powers[name])]
    fails = [name for name in must if name not in powerful and name not in unknown]
    return (FAILS if fails else FEW if unknown else MEANS), fails


def _at_least(found: Mapping[str, float | None], value: float, low: float) -> bool:
    v, lo = found["value"], found["low"]
    return v is not None and lo is not None and v >= value and lo > low


def _differs(found: Mapping[str, float | None]) -> bool:
    low, high = found["low"], found["high"]
    return low is not None and high is not None and (low > 0.5 or high < 0.5)


def _column(rows: Sequence[Row], measure: str, index: Mapping[str, int]) -> Column:
    found = [(*row.parts.get(measure, (0.0, 0.0)), index[row.scenario]) for row in rows]
    kept = np.array([f for f in found if f[1] != 0.0], dtype=float).reshape(-1, 3)
    return Column(parts=kept[:, 0], wholes=kept[:, 1], scenario=kept[:, 2].astype(int), n_scenarios=len(index))


def _median(column: Column) -> float:
    """The lower of the two in the middle, as `eval.faithfulness.causal.measures` has it."""
    return float(np.quantile(column.parts / column.wholes, 0.5, method="lower")) if len(column.parts) else math.nan


def _is_planted(name: str) -> bool:
    base = name.partition("@")[0]
    if base not in PLANTED:
        return False
    try:
        named(name)
    except ValueError:
        return False
    return base in (name, FAITHFUL)


def _number(value: float) -> float | None:
    return None if _nan(value) else round(float(value), 4) + 0.0


def _nan(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


# ---- the table's words -----------------------------------------------------------------------------------------------------------


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _worst(metric: Mapping[str, Any]) -> tuple[str, str, str]:
    aurocs = [metric["auroc"][name] for name in metric["must_tell"] if metric["auroc"][name]["value"] is not None]
    least = min(aurocs, key=lambda found: found["value"], default=None)
    shown = "-" if least is None else f"{least['value']:.2f} [{_shown(least['low'])}, {_shown(least['high'])}]"
    powers = [
        [metric[key][name] for name in metric["must_tell"] if metric[key][name] is not None]
        for key in ("power", "power_of_some")
    ]
    return shown, *(_shown(min(known, default=None)) for known in powers)  # type: ignore[return-value]


def _verdict(metric: Mapping[str, Any]) -> str:
    return f"{metric['verdict']}{': ' + ', '.join(metric['fails']) if metric['fails'] else ''}"
