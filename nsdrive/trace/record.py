"""A trace as JSON: everything that was decided, proposals too, in a few kilobytes.

The proposals of a step are columns. A column whose entries are all equal is written once; what is proposed (path, offset, share
of the limit), and any column of the lane changes, is left out where it is as in the step before; a term's columns cover only the
proposals numbered in "at", the others having a plain 1.0 (all, where there is no "at"; none, where there is nothing):

    {"n": 15, "path": "keep", "offset_m": [0.0, 0.0, ...], "speed_fraction": [0.2, 0.4, ...], "score": [0.91, 0.0, ...],
     "terms": {"no_at_fault_collision": {"at": [4, 9], "value": 0.0, "measured": [1.8, 2.1], "about": "vehicle-2"},
               "drivable_area": {}, ..., "progress": {"value": [0.31, ...], "measured": [12.4, ...]}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from functools import lru_cache
from typing import Any

from nsdrive.trace.choice import Blame, Choice, LaneVerdict, Losers, Motion
from nsdrive.trace.trace import EndState, ObjectFacts, Phase, SceneFacts, Step, Trace
from nsdrive.world.decision import Constraint, LaneChange, Proposal, Term
from nsdrive.world.navigation import Navigation

_MOTION = ("path", "offset_m", "speed_fraction")
_TERM = ("value", "measured", "about")
_PLAIN_TERM: tuple[Any, ...] = (1.0, None, None)


def to_json(trace: Trace) -> dict[str, Any]:
    """Plain dicts, lists and numbers; `from_json` is the exact inverse, also through a JSON file.

    Raises ValueError for proposals of one step that do not have the same terms.
    """
    before: Sequence[Proposal] = ()
    changes: dict[str, Any] = {}
    steps = []
    for step in trace.steps:
        row = _step_to_json(step, before)
        if step.lane_changes:
            now = _columns(step.lane_changes, [f.name for f in fields(LaneChange)])
            again = changes.get("n") == now["n"]
            row["lane_changes"] = {k: v for k, v in now.items() if k == "n" or not again or v != changes[k]}
            changes = now
        steps.append(row)
        before = step.proposals or before
    return {
        "scene": _plain(asdict(trace.scene)),
        "route": asdict(trace.route),
        "objects": [_plain(asdict(o)) for o in trace.objects],
        "steps": steps,
        "end": asdict(trace.end),
        "phases": [_told(p) for p in trace.phases],
    }


def from_json(row: Mapping[str, Any]) -> Trace:
    """The trace of `to_json`. Raises ValueError naming what is missing or misshapen."""
    try:
        before: tuple[Proposal, ...] = ()
        changes: dict[str, Any] = {}
        steps = []
        for s in row["steps"]:
            if "lane_changes" in s:
                changes = {**changes, **s["lane_changes"]}
                s = {**s, "lane_changes": changes}
            steps.append(_step_from_json(s, before))
            before = steps[-1].proposals or before
        return Trace(
            scene=SceneFacts(
                in_view=tuple((kind, int(n)) for kind, n in row["scene"]["in_view"]), light=row["scene"]["light"]
            ),
            route=Navigation(**row["route"]),
            objects=tuple(ObjectFacts(**{**o, "cameras": tuple(o["cameras"])}) for o in row["objects"]),
            steps=tuple(steps),
            end=EndState(**row["end"]),
            phases=tuple(Phase(**p) for p in row["phases"]),
        )
    except KeyError as error:
        raise ValueError(f"a trace lacks the field {error}") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"a trace is misshapen: {error}") from None


def _step_to_json(step: Step, before: Sequence[Proposal]) -> dict[str, Any]:
    row = {name: getattr(step, name) for name in ("time_s", "speed_mps", "accel_mps2", "lateral_offset_m")}
    row["constraints"] = [_plain(vars(c)) for c in step.constraints]
    row |= {"binding": step.binding, "tied": list(step.tied), "command_mps2": step.command_mps2}
    if step.moved_m is not None:
        row["moved_m"] = step.moved_m
    if step.proposals:
        row |= {
            "proposals": _proposals_to_json(step.proposals, before),
            "chosen": step.chosen,
            "runner_up": step.runner_up,
        }
    if step.choice is not None:
        row["choice"] = _plain(asdict(step.choice))
    if step.lane_news:
        row["lane_news"] = [_told(v) for v in step.lane_news]
    return row


def _step_from_json(row: Mapping[str, Any], before: Sequence[Proposal]) -> Step:
    given = dict(row)
    given["constraints"] = tuple(Constraint(**c) for c in row["constraints"])
    given["tied"] = tuple(row["tied"])
    if "proposals" in row:
        given["proposals"] = _proposals_from_json(row["proposals"], before)
    if "lane_changes" in row:
        given["lane_changes"] = tuple(LaneChange(**c) for c in _rows(row["lane_changes"]))
    if "choice" in row:
        given["choice"] = _choice_from_json(row["choice"])
    if "lane_news" in row:
        given["lane_news"] = tuple(LaneVerdict(**v) for v in row["lane_news"])
    return Step(**given)


def _proposals_to_json(proposals: Sequence[Proposal], before: Sequence[Proposal]) -> dict[str, Any]:
    names = [t.name for t in proposals[0].terms]
    if any([t.name for t in p.terms] != names for p in proposals):
        raise ValueError("the proposals of one decision must have the same terms in the same order")
    columns: dict[str, Any] = {"n": len(proposals)}
    if [Motion.of(p) for p in proposals] != [Motion.of(p) for p in before]:
        columns |= {name: _column([getattr(p, name) for p in proposals]) for name in _MOTION}
    columns["score"] = _column([p.score for p in proposals])
    columns["terms"] = {name: _term_to_json([p.terms[k] for p in proposals]) for k, name in enumerate(names)}
    return columns


def _term_to_json(terms: Sequence[Term]) -> dict[str, Any]:
    at = [i for i, term in enumerate(terms) if (term.value, term.measured, term.about) != _PLAIN_TERM]
    if not at:
        return {}
    columns: dict[str, Any] = {} if len(at) == len(terms) else {"at": at}
    for field in _TERM:
        column = _column([getattr(terms[i], field) for i in at])
        if column is not None:
            columns[field] = column
    return columns


def _terms_from_json(name: str, columns: Mapping[str, Any], n: int) -> list[Term]:
    """One term of each of n proposals. Most are plain, and then the same object."""
    terms = [_plain_term(name)] * n
    at = columns.get("at", range(n) if columns else ())
    told = zip(*(_spread(columns.get(field), len(at)) for field in _TERM), strict=True)
    for i, (value, measured, about) in zip(at, told, strict=True):
        terms[i] = Term(name=name, value=value, measured=measured, about=about)
    return terms


@lru_cache(maxsize=64)
def _plain_term(name: str) -> Term:
    value, measured, about = _PLAIN_TERM
    return Term(name=name, value=value, measured=measured, about=about)


def _proposals_from_json(columns: Mapping[str, Any], before: Sequence[Proposal]) -> tuple[Proposal, ...]:
    n = int(columns["n"])
    if "path" in columns:
        motions = list(zip(*(_spread(columns[name], n) for name in _MOTION), strict=True))
    else:
        motions = [(p.path, p.offset_m, p.speed_fraction) for p in before]
    by_name = [_terms_from_json(name, given, n) for name, given in columns["terms"].items()]
    terms = list(zip(*by_name, strict=True)) if by_name else [()] * n
    return tuple(
        Proposal(path=path, offset_m=offset, speed_fraction=fraction, terms=own, score=score)
        for (path, offset, fraction), own, score in zip(motions, terms, _spread(columns["score"], n), strict=True)
    )


def _columns(rows: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    return {"n": len(rows)} | {name: _column([getattr(r, name) for r in rows]) for name in names}


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    n = int(columns["n"])
    spread = {name: _spread(column, n) for name, column in columns.items() if name != "n"}
    return [{name: column[i] for name, column in spread.items()} for i in range(n)]


def _column(values: list[Any]) -> Any:
    """The values, or the one that they all are."""
    return values[0] if all(v == values[0] and type(v) is type(values[0]) for v in values) else values


def _spread(column: Any, n: int) -> list[Any]:
    if not isinstance(column, list):
        return [column] * n
    if len(column) != n:
        raise ValueError(f"a column has {len(column)} entries, expected {n}")
    return column


def _choice_from_json(row: Mapping[str, Any]) -> Choice:
    given = dict(row)
    given["chosen"] = Motion(**row["chosen"])
    given["runner_up"] = None if row["runner_up"] is None else Motion(**row["runner_up"])
    for name in ("flaw", "loses_for"):
        given[name] = None if row[name] is None else Blame(**row[name])
    given["losers"] = tuple(Losers(**group) for group in row["losers"])
    return Choice(**given)


def _told(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their defaults."""
    return {
        f.name: getattr(thing, f.name)
        for f in fields(thing)
        if f.default is MISSING or getattr(thing, f.name) != f.default
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
