"""Claims of a text's half seconds: states, evaluations of rules, and what binds; and of a brief text's phases.

A wrong number is blamed once, where it is said: lines below that leave it as it was (see `nsdrive.trace.text`) are not wrong
again, and arithmetic that rests on it is unknown. A number that was right and is left though it has changed is blamed there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.faithfulness.observed.ledger import Ledger, at
from eval.faithfulness.observed.tolerances import within
from eval.faithfulness.observed.truth import Evaluated
from nsdrive.trace.replay import evaluation_errors
from nsdrive.trace.text import Line
from nsdrive.trace.trace import KEEP, N_STEPS, STEP_S, Phase, manoeuvre
from nsdrive.world.decision import BINDING_TOLERANCE_MPS2, Constraint
from nsdrive.world.rules import RULES

MANOEUVRE_SLACK_MPS = 0.1  # chosen by us: a speed so far off may make another word of the same motion
# What a number of a rule is held to, by the words of `RULES`.
_TOLERATED = {
    "gap_m": "gap_m",
    "lead_speed_mps": "speed_mps",
    "accel_mps2": "accel_mps2",
    "waited_s": "time_s",
    "crossing": "count",
    "distance_m": "distance_m",
    "radius_m": "radius_m",
    "clears_s": "time_s",
    "arrives_s": "time_s",
    "collision_s": "time_s",
    "target_speed_mps": "ego_speed_mps",
    "curve_speed_mps": "ego_speed_mps",
    "needed_gap_m": "needed_gap_m",
    "comfortable_decel_mps2": "constant",
    "wait_s": "constant",
    "margin_s": "constant",
    "time_s": "constant",
    "allows_mps2": "allows_mps2",
}
TOLERATED = {
    rule: {
        **{name: _TOLERATED[name] for name in spec.inputs},
        "threshold": _TOLERATED[spec.threshold],
        "allows_mps2": "allows_mps2",
    }
    for rule, spec in RULES.items()
}


@dataclass(kw_only=True)
class Steps:
    """Judges a detailed text's steps in turn. blamed: rule -> numbers that are wrong since an earlier line."""

    ledger: Ledger
    blamed: dict[str, set[str]] = field(default_factory=dict)
    offset_blamed: bool = False

    def judge(self, k: int, state: Line, evaluations: Sequence[Line], complete: bool) -> None:
        """Step k: its state and its evaluations, which are `complete` unless the text breaks off among them."""
        speed_right = self._state(k, state)
        truth = self.ledger.truth.steps[k] if k < len(self.ledger.truth.steps) else None
        found = _matched(self.ledger, evaluations, truth or ())
        target = next((line.means for line in evaluations if line.means.rule == "target_speed"), None)
        target_line = next((line for line in evaluations if line.means.rule == "target_speed"), None)
        wrong_target = False
        if target_line is not None:
            wrong = self._numbers(target_line, found.get(target_line.number))
            wrong_target = bool(wrong) or "threshold" in self.blamed.get("target_speed", ())
            self._evaluation(k, target_line, found, truth, state, target, wrong, speed_right is False)
        for line in evaluations:
            if line is not target_line:
                wrong = self._numbers(line, found.get(line.number))
                rests = speed_right is False or wrong_target
                self._evaluation(k, line, found, truth, state, target, wrong, rests)
        self._binding(k, evaluations, found, truth)
        if complete and truth is not None:
            self._missing(k, state.number, evaluations, found, truth)

    def end(self, state: Line) -> None:
        self._state(N_STEPS, state)

    def _state(self, k: int, line: Line) -> bool | None:
        """Judge a state line; whether its speed is right, None where that is not known."""
        ledger, truth, said = self.ledger, self.ledger.truth, line.means
        words, true_words, right, speed_right = [], [], True, None
        if truth.states is not None:
            speed, accel, at_m = truth.states[k]
            speed_right = within("ego_speed_mps", said["speed_mps"], speed) <= 1.0
            right &= speed_right and within("accel_mps2", said["accel_mps2"], accel) <= 1.0
            words.append(f"{said['speed_mps']:.2f} m/s, {said['accel_mps2']:+.2f} m/s2")
            true_words.append(f"{speed:.2f} m/s, {accel:+.2f} m/s2")
            if said["moved_m"] is not None and k < N_STEPS:
                moved = truth.states[k + 1][2] - at_m
                right &= within("moved_m", said["moved_m"], moved) <= 1.0
                words.append(f"then {said['moved_m']:.2f} m")
                true_words.append(f"then {moved:.2f} m")
        if truth.trace is not None:
            true = truth.trace.end if k == N_STEPS else truth.trace.steps[k]
            offset = true.lateral_offset_m
            if offset is not None:
                fits = within("offset_m", said["lateral_offset_m"], offset) <= 1.0
                if fits or line.fields["lateral_offset_m"] is not None or not self.offset_blamed:
                    right &= fits
                    self.offset_blamed = not fits
                words.append(f"{said['lateral_offset_m']:+.1f} m beside the path")
                true_words.append(f"{offset:+.1f} m beside the path")
        known = truth.states is not None or truth.trace is not None
        ledger.add(line.number, "state", right if known else None, ", ".join(words) + at(k), ", ".join(true_words))
        return speed_right

    def _numbers(self, line: Line, true: Evaluated | None) -> list[str]:
        """The numbers that this line is to blame for."""
        rule = line.means.rule
        blamed = self.blamed.setdefault(rule, set())
        if true is None:
            return []
        said, so, wrong = _numbers_of(line.means), _numbers_of(true.constraint), []
        for name, what in TOLERATED[rule].items():
            if within(what, said[name], so[name]) <= 1.0:
                blamed.discard(name)
            elif line.fields[name] is not None or name not in blamed:
                blamed.add(name)
                wrong.append(name)
        return wrong

    def _evaluation(
        self,
        k: int,
        line: Line,
        found: Mapping[int, Evaluated],
        truth: Sequence[Evaluated] | None,
        state: Line,
        target: Constraint | None,
        wrong: Sequence[str],
        rests: bool,
    ) -> None:
        """The claims of one evaluation: that the rule applies there, its numbers, its arithmetic."""
        ledger, c, true = self.ledger, line.means, found.get(line.number)
        about = None if true is None else true.constraint.about
        said = f"{c.rule} {c.about or ''}".strip() + at(k)
        if true is not None:
            ledger.add(line.number, "rule", True, said, self._say(c.rule, about), about)
            numbers, so = _numbers_of(c), _numbers_of(true.constraint)
            told = wrong or TOLERATED[c.rule]
            ledger.add(line.number, "numbers", not wrong, _list(c.rule, told, numbers), _list(c.rule, told, so), about)
        elif truth is None:
            ledger.add(line.number, "rule", None, said, "the planner's decision is not known")
        else:
            others = [e.constraint.about for e in truth if e.constraint.rule == c.rule]
            so_words = (
                f"{c.rule} is not evaluated then" if not others else "it is about " + self.ledger.truth.say(others[0])
            )
            ledger.add(line.number, "rule", False, said, so_words, others[0] if others else None)
        parameters = ledger.truth.parameters
        if parameters is None:
            ledger.add(line.number, "arithmetic", None, f"allows {c.allows_mps2:.2f} m/s2", "the laws are not known")
            return
        target_mps = None if target is None else target.threshold
        errors = evaluation_errors(c, state.means["speed_mps"], target_mps, parameters)
        ledger.adds_up.append(not errors)
        inherited = {name for name in self.blamed[c.rule] if line.fields[name] is None}
        right = True if not errors else None if rests or inherited else False
        ledger.add(
            line.number,
            "arithmetic",
            right,
            f"allows {c.allows_mps2:.2f} m/s2",
            "; ".join(errors)
            if right is False
            else "rests on a wrong number above"
            if errors
            else "as its inputs give",
            about,
        )

    def _binding(
        self, k: int, lines: Sequence[Line], found: Mapping[int, Evaluated], truth: Sequence[Evaluated] | None
    ) -> None:
        """Every mark is a claim; the one that binds counts for the step."""
        ledger = self.ledger
        least = min((e.constraint.allows_mps2 for e in truth or ()), default=0.0)
        binds = next((e.constraint for e in truth or () if e.mark == "binds"), None)
        for line in lines:
            mark = line.fields["mark"].strip()
            if not mark:
                continue
            said = f"{line.means.rule} {mark}{at(k)}"
            if binds is None:
                ledger.add(line.number, "binding", None, said, "the planner's decision is not known")
                continue
            true = found.get(line.number)
            near = true is not None and (
                bool(true.mark) or true.constraint.allows_mps2 - least <= BINDING_TOLERANCE_MPS2 + 0.01
            )
            ledger.add(line.number, "binding", near, said, f"{self._say(binds.rule, binds.about)} binds", binds.about)
            if mark == "binds":
                ledger.binding_right.append(near)

    def _missing(
        self, k: int, number: int, lines: Sequence[Line], found: Mapping[int, Evaluated], truth: Sequence[Evaluated]
    ) -> None:
        """What a full text says at this step and this one does not; a rule said of somebody else is wrong, not missing."""
        said = {id(e) for e in found.values()}
        needed = self.ledger.truth.needed[k]
        misplaced = Counter(line.means.rule for line in lines if line.number not in found)
        for e in truth:
            if e.key not in needed:
                continue
            c = e.constraint
            self.ledger.expected["rule"] += 1
            if id(e) in said:
                self.ledger.found["rule"] += 1
            elif misplaced[c.rule] > 0:
                misplaced[c.rule] -= 1
            else:
                self.ledger.miss(number, "rule", self._say(c.rule, c.about), c.about)

    def _say(self, rule: str, about: str | None) -> str:
        if RULES[rule].about == "nothing":
            return rule
        return f"{rule}: {self.ledger.truth.say(about)}" if RULES[rule].about == "track id" else f"{rule} ({about})"


def judge_phase(ledger: Ledger, line: Line, phase: Phase) -> None:
    """A phase of a brief text: what binds in it, and what the ego does. Its ends may be half a second off."""
    truth = ledger.truth
    first, last = round(phase.start_s / STEP_S), min(N_STEPS, round(phase.end_s / STEP_S))
    said = f"{phase.rule} {phase.about or ''}".strip() + f" until {phase.end_s:.1f} s"
    if last <= first or abs(phase.end_s - last * STEP_S) > 1e-9:
        ledger.add(line.number, "binding", False, said, "it ends before it begins, or beyond the five seconds")
        return
    if truth.trace is None:
        ledger.add(line.number, "binding", None, said, "the planner's decision is not known")
    else:
        binding = [next((e.constraint for e in step if e.mark == "binds"), None) for step in truth.steps]
        near = [[e.constraint for e in step if e.mark] for step in truth.steps]
        fits = [
            any(c.rule == phase.rule and ledger.may_mean(phase.about, c.about) for c in near[k])
            and _same_way(ledger, k, phase)
            for k in range(N_STEPS)
        ]
        hit = next((k for k in range(first, last) if fits[k]), None)
        if hit is not None:
            about = next(c.about for c in near[hit] if c.rule == phase.rule and ledger.may_mean(phase.about, c.about))
            ledger.means(phase.about, about)
        ledger.binding_right += fits[first:last]
        inner = fits[first + (first > 0) : last - (last < N_STEPS)]
        touches = any(fits[max(0, first - 1) : last + 1])
        right = all(inner) if inner else touches
        other = next((k for k in range(first, last) if not fits[k]), first)
        c_true = binding[other] if not right else binding[first if hit is None else hit]
        so = "nothing" if c_true is None else c_true.rule + (f": {truth.say(c_true.about)}" if c_true.about else "")
        ledger.add(
            line.number,
            "binding",
            right,
            said,
            f"in {other * STEP_S:.1f} s {so} binds",
            c_true.about if c_true else None,
        )
    if truth.states is None:
        ledger.add(line.number, "manoeuvre", None, phase.manoeuvre, "the motion is not known")
        return
    before, after, seconds = truth.states[first][0], truth.states[last][0], (last - first) * STEP_S
    words = {
        manoeuvre(before, max(0.0, after + off), seconds) for off in (-MANOEUVRE_SLACK_MPS, 0.0, MANOEUVRE_SLACK_MPS)
    }
    so = f"{manoeuvre(before, after, seconds)}: {before:.1f} to {after:.1f} m/s"
    ledger.add(line.number, "manoeuvre", phase.manoeuvre in words, phase.manoeuvre, so)


def judge_row(ledger: Ledger, line: Line) -> None:
    """A row of speeds, accelerations or distances moved: a claim for each number."""
    states = ledger.truth.states
    column, what, unit = {
        "speeds": (0, "ego_speed_mps", "m/s"),
        "accels": (1, "accel_mps2", "m/s2"),
        "moved": (2, "moved_m", "m"),
    }[line.kind]
    for k, value in enumerate(line.means):
        if value is None:
            continue
        said = f"{value:.2f} {unit}{at(k)}"
        if states is None:
            ledger.add(line.number, "state", None, said, "the motion is not known")
            continue
        true = states[k + 1][2] - states[k][2] if line.kind == "moved" else states[k][column]
        ledger.add(line.number, "state", within(what, value, true) <= 1.0, said, f"{true:.2f} {unit}")


def judge_turn(ledger: Ledger, line: Line) -> None:
    turned = ledger.truth.turned_deg
    said = f"turned {line.means:.0f} deg"
    if turned is None:
        ledger.add(line.number, "turn", None, said, "the motion is not known")
        return
    off = (line.means - turned + 180.0) % 360.0 - 180.0
    ledger.add(line.number, "turn", within("turned_deg", turned + off, turned) <= 1.0, said, f"{turned:.0f} deg")


def _same_way(ledger: Ledger, k: int, phase: Phase) -> bool:
    trace = ledger.truth.trace
    assert trace is not None, "asked only where there is one"
    return (trace.steps[k].motion or KEEP).path == phase.path


def _numbers_of(c: Constraint) -> dict[str, float]:
    return {**c.inputs, "threshold": c.threshold, "allows_mps2": c.allows_mps2}


def _list(rule: str, names: Any, numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{words} {numbers[name]:g}{unit}" for name, words, unit in _WORDS[rule] if name in names)


_UNITS = {"m": " m", "mps": " m/s", "mps2": " m/s2", "s": " s"}


def _in_words(rule: str) -> tuple[tuple[str, str, str], ...]:
    """(number, what to call it, unit) of a rule's numbers."""
    spec, told = RULES[rule], []
    for name in (*spec.inputs, "threshold", "allows_mps2"):
        *words, unit = (spec.threshold if name == "threshold" else name).split("_")
        told.append((name, " ".join(words) or "crossing", _UNITS.get(unit, "")))
    return tuple(told)


_WORDS = {rule: _in_words(rule) for rule in RULES}


def _matched(ledger: Ledger, lines: Sequence[Line], truth: Sequence[Evaluated]) -> dict[int, Evaluated]:
    """Line number -> the planner's evaluation that it states: the same rule, about the same thing."""
    found: dict[int, Evaluated] = {}
    free = list(truth)
    for known in (True, False):  # names that mean something first; new ones take what is left
        for line in lines:
            c = line.means
            if line.number in found or (c.about is None or c.about in ledger.meanings) is not known:
                continue
            fit = [e for e in free if e.constraint.rule == c.rule and ledger.may_mean(c.about, e.constraint.about)]
            if fit:
                best = min(fit, key=lambda e: _misfit(c, e.constraint)) if len(fit) > 1 else fit[0]
                ledger.means(c.about, best.constraint.about)
                found[line.number] = best
                free = [e for e in free if e is not best]
    return found


def _misfit(said: Constraint, true: Constraint) -> float:
    numbers, so = _numbers_of(said), _numbers_of(true)
    return sum(min(3.0, within(what, numbers[name], so[name])) for name, what in TOLERATED[said.rule].items())
