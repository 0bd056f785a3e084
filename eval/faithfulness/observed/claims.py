"""Every line of an answer's reasoning held against its sample: what it claims, what is so, and whether that is the same.

    >>> truth = judge_text(sample, answer)
    >>> [(c.line, c.said, c.truth) for c in truth.claims if c.verdict == "false"]
    [(3, 'vehicle-1 12.4 m ahead', 'the vehicle 12.4 m behind (car-3)')]

A text proves itself by what can be read in it (`nsdrive.trace.text`); whose names it uses is its own affair: objects are matched
to those around by class, direction and distance, one to one (`objects`). What may be how far off: `tolerances`.
A text that cannot be read to its end is judged as far as it can; the rest is unknown. No text makes this fail or take long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.faithfulness.observed.choice import Choices
from eval.faithfulness.observed.ledger import Claim, Ledger, Verdict
from eval.faithfulness.observed.objects import Match, match_objects
from eval.faithfulness.observed.steps import Steps, judge_phase, judge_row, judge_turn
from eval.faithfulness.observed.tolerances import within
from eval.faithfulness.observed.truth import Truth, truth_of
from nsdrive.dataset import Sample
from nsdrive.trace.text import Line, Reading, parse_lines
from nsdrive.trace.trace import N_STEPS, SceneFacts
from nsdrive.world.navigation import Navigation
from nsdrive.world.rules import IdmParameters

KINDS = {
    "count": "how many of a kind are in view",
    "light": "the light ahead",
    "route": "the next manoeuvre, how far it is, and the limit, as the prompt has them",
    "object": "that there is an object of this class, direction and distance",
    "speed": "how fast that object is",
    "seen": "which cameras see it, or that none does",
    "state": "the ego's speed, acceleration and place at a time, or one number of a row of them",
    "rule": "that a rule applies at a time, to that object",
    "numbers": "the numbers of that evaluation",
    "arithmetic": "that its result follows from its own numbers by the rule's law",
    "binding": "that it decides, or ties with what decides",
    "manoeuvre": "what the ego does in a phase",
    "choice": "what is chosen among proposals, its score, the second, or why others lose",
    "lane": "what is thought of a neighbouring lane",
    "turn": "how far the ego has turned in the end",
    "unread": "a line that could not be read",
}
MAX_CHARS = 20_000  # of a reasoning that are read. Chosen by us: four times the longest of our texts
MAX_UNREAD = 300  # lines that are listed as unread. Chosen by us, as the next
SHOWN = 120  # characters of such a line


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTruth:
    """What became of one text. reasoning: its text, None where the answer has none; closed: whether its block ends. error: why it
    could not be read to its end, at `error_line`; None where it could. claims: in the order of the lines. missing: what a full
    text would have said and this does not, at the line where it belongs; its `truth` is what, `said` is empty."""

    reasoning: str | None
    closed: bool
    error: str | None
    error_line: int | None
    claims: tuple[Claim, ...]
    missing: tuple[Claim, ...]
    reading: Reading
    ledger: Ledger
    truth: Truth

    @property
    def readable(self) -> bool:
        return self.reading.trace is not None

    def lines(self) -> dict[int, Verdict]:
        """Line number -> the verdict of the whole line: false if any claim of it is, else unknown if any is, else true."""
        verdicts: dict[int, Verdict] = {}
        for claim in self.claims:
            before = verdicts.get(claim.line, "true")
            worse = "false" in (before, claim.verdict)
            verdicts[claim.line] = "false" if worse else "unknown" if "unknown" in (before, claim.verdict) else "true"
        return verdicts


def judge_text(sample: Sample, text: str, *, parameters: IdmParameters | None = None) -> TextTruth:
    """Judge an answer (the whole of it, REASONING block and all) line by line. Never raises on a text, nor on a sample that lacks
    things. parameters: constants of the planner's laws (`truth.parameters_of`), None takes the teacher's defaults."""
    truth = truth_of(sample, parameters)
    ledger = Ledger(truth=truth)
    reasoning, closed = reasoning_of(text)
    said = reasoning if reasoning is not None and reasoning.strip() else None
    if said is None:
        return _judged(None, closed, Reading(lines=(), trace=None, error="no reasoning"), ledger)
    reading = parse_lines(said[:MAX_CHARS])
    objects = [line for line in reading.lines if line.kind == "object"]
    level = "brief" if any(line.kind == "phase" for line in reading.lines) else "detailed"
    _objects(ledger, objects, level if len(objects) + 2 < len(reading.lines) else None)
    for line in reading.lines:
        if line.kind == "scene":
            _scene(ledger, line, line.means)
        elif line.kind == "route":
            _route(ledger, line, line.means)
        elif line.kind == "phase":
            judge_phase(ledger, line, line.means)
        elif line.kind in ("speeds", "accels", "moved"):
            judge_row(ledger, line)
        elif line.kind == "turned":
            judge_turn(ledger, line)
    _steps(ledger, [line for line in reading.lines if line.step is not None and line.kind != "turned"])
    if reading.trace is None:
        _unread(ledger, said, reading)
    return _judged(said, closed, reading, ledger)


def reasoning_of(text: str) -> tuple[str | None, bool]:
    """The text within <REASONING>, and whether it is closed; of one that is not, all up to the plan. None where there is none."""
    start = text.find("<REASONING>")
    if start < 0:
        return None, False
    start += len("<REASONING>")
    end = text.find("</REASONING>", start)
    if end >= 0:
        return text[start:end], True
    end = text.find("<PLANNING>", start)
    return text[start : end if end >= 0 else len(text)], False


def _judged(reasoning: str | None, closed: bool, reading: Reading, ledger: Ledger) -> TextTruth:
    return TextTruth(
        reasoning=reasoning,
        closed=closed,
        error=reading.error,
        error_line=reading.error_line,
        claims=tuple(sorted(ledger.claims, key=lambda c: c.line)),
        missing=tuple(sorted(ledger.missing, key=lambda c: c.line)),
        reading=reading,
        ledger=ledger,
        truth=ledger.truth,
    )


def _scene(ledger: Ledger, line: Line, scene: SceneFacts) -> None:
    """Each kind's number, also of kinds that are in view and not said; and the light."""
    trace = ledger.truth.trace
    counts, true = dict(scene.in_view), None if trace is None else dict(trace.scene.in_view)
    for kind in [*counts, *(k for k in true or () if k not in counts)]:
        said = _number_of(counts.get(kind, 0), kind)
        if true is None:
            ledger.add(line.number, "count", None, said, "what is in view is not known")
        else:
            right = within("count", counts.get(kind, 0), true.get(kind, 0)) <= 1.0
            ledger.add(line.number, "count", right, said, _number_of(true.get(kind, 0), kind))
    light = f"light {scene.light or 'none'}"
    if trace is None:
        ledger.add(line.number, "light", None, light, "the light is not known")
    else:
        ledger.add(
            line.number, "light", scene.light == trace.scene.light, light, f"light {trace.scene.light or 'none'}"
        )


def _route(ledger: Ledger, line: Line, route: Navigation) -> None:
    sample = ledger.truth.sample
    limit, true_limit = route.speed_limit_mps, sample.speed_limit_mps
    same_limit = limit is true_limit
    if limit is not None and true_limit is not None:
        same_limit = within("limit_mps", limit, true_limit) <= 1.0
    so = "limit not known" if true_limit is None else f"limit {true_limit:.2f} m/s"
    words = "limit not known" if limit is None else f"limit {limit:.2f} m/s"
    ledger.add(line.number, "route", route.command == sample.command, route.command, sample.command)
    ledger.add(line.number, "route", same_limit, words, so)


def _objects(ledger: Ledger, lines: Sequence[Line], level: str | None) -> None:
    """Find out whom the text means; then that they are there, their speed, and who sees them. level: of the text, by which
    one knows whom it leaves out; None where it breaks off here."""
    truth = ledger.truth
    now = [line for line in lines if line.means.distance_m is not None]
    things = truth.around if truth.around is not None else truth.listed
    matches = match_objects([line.means for line in now], things)
    for line, match in zip(now, matches, strict=False):
        ledger.matches.append(match)
        if match.thing is not None:
            ledger.name(match.claimed.name, match.alike, match.thing.thing_id)
        _object(ledger, line, match)
    left = list(truth.later)
    for line in lines:
        if line.means.distance_m is None:
            fit = next((each for each in left if each[0] == line.means.kind), None)
            if fit is not None:
                left.remove(fit)
                ledger.name(line.means.name, frozenset(i for kind, i in truth.later if kind == fit[0]), fit[1])
            right = None if truth.trace is None else fit is not None
            so = "nobody of that kind is spoken of later" if fit is None else f"{fit[1]} does"
            said = f"a {line.means.kind} comes later"
            ledger.add(line.number, "object", right, said, so, None if fit is None else fit[1])
    if level is not None:
        found = {thing_id for match in ledger.matches if match.fits for thing_id in match.alike}
        recognised = found.union(
            *(match.alike for match in ledger.matches)
        )  # of whom something is wrong is not missing
        wanted = truth.wanted(level)
        for thing in truth.listed:
            if thing.thing_id in wanted:
                ledger.expected["object"] += 1
                ledger.found["object"] += thing.thing_id in found
                if thing.thing_id not in recognised:
                    ledger.miss(lines[-1].number if lines else 2, "object", truth.say(thing.thing_id), thing.thing_id)


def _object(ledger: Ledger, line: Line, match: Match) -> None:
    claimed, thing, known = match.claimed, match.thing, ledger.truth.around is not None
    said = f"{claimed.kind} {claimed.distance_m:.1f} m {claimed.sector}"
    if thing is None:
        so = f"there is no such {claimed.kind}" if known else "what is around is not known"
        ledger.add(line.number, "object", False if known else None, said, so)
        return
    right = True if match.fits else False if known else None
    ledger.add(line.number, "object", right, said, ledger.truth.say(thing.thing_id), thing.thing_id)
    speed = claimed.speed_mps or 0.0
    fits = within("speed_mps", speed, thing.speed_mps) <= 1.0
    ledger.add(line.number, "speed", fits, f"{speed:.1f} m/s", f"{thing.speed_mps:.1f} m/s", thing.thing_id)
    ledger.add(
        line.number,
        "seen",
        set(claimed.cameras) == set(thing.cameras),
        _cameras(claimed.cameras),
        _cameras(thing.cameras),
        thing.thing_id,
    )


def _steps(ledger: Ledger, lines: Sequence[Line]) -> None:
    """The half seconds of a detailed text, each complete once the next has begun."""
    steps, choices = Steps(ledger=ledger), Choices(ledger=ledger)
    last = max((line.step for line in lines if line.step is not None), default=-1)
    for k in range(last + 1):
        here = [line for line in lines if line.step == k]
        state, rest = here[0], here[1:]
        if k == N_STEPS:
            steps.end(state)
            break
        complete = k < last
        choices.judge(k, state, [line for line in rest if line.kind != "evaluation"], complete)
        steps.judge(k, state, [line for line in rest if line.kind == "evaluation"], complete)


def _unread(ledger: Ledger, reasoning: str, reading: Reading) -> None:
    """The line at which reading stopped, with the reason, and those below it."""
    read = {line.number for line in reading.lines}
    lines = reasoning[:MAX_CHARS].split("\n")
    rest = [n for n in range(1, len(lines) + 1) if n not in read]
    for number in rest[:MAX_UNREAD]:
        said = lines[number - 1][:SHOWN].encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is legal in JSON
        ledger.add(number, "unread", None, said, (reading.error or "") if number == reading.error_line else "not read")


def _number_of(count: int, kind: str) -> str:
    return f"{count} {kind}{'' if count == 1 else 's'}"


def _cameras(cameras: Sequence[str]) -> str:
    return "seen by " + " ".join(cameras) if cameras else "not seen"
