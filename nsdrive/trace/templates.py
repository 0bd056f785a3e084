"""The table of templates: every line that a text may hold, and from it the formatter, the reader and the grammar.

A template is a line with {field:kind} places; a kind is how a value is shown, what it may look like, and how it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from nsdrive.trace.choice import Blame, Losers, Motion
from nsdrive.trace.trace import KIND_WORDS, LIGHT_WORDS, MANOEUVRES, N_STEPS, SECTORS, decimals
from nsdrive.world.decision import LANE_CHANGE_REASONS, PATHS
from nsdrive.world.navigation import TURN_WORDS, Navigation
from nsdrive.world.rules import RULES
from nsdrive.world.scoring import TERMS

LEVELS = ("none", "brief", "detailed")

# ---- what a field may say ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One sort of field."""

    regex: str
    show: Callable[[Any], str]
    read: Callable[[str], Any]


def _number(places: int) -> Kind:
    digits = rf"\.[0-9]{{{places}}}" if places else ""
    return Kind(regex=rf"-?[0-9]{{1,5}}{digits}", show=lambda v: f"{decimals(v, places):.{places}f}", read=float)


def _word(*words: str) -> Kind:
    return Kind(regex="|".join(re.escape(w) for w in words), show=str, read=str)


def _show_command(command: tuple[str, float]) -> str:
    return Navigation(manoeuvre=command[0], distance_m=command[1], speed_limit_mps=None).command


def _read_command(text: str) -> tuple[str, float]:
    if text == FOLLOW:
        return FOLLOW, 0.0
    manoeuvre, spoken, distance = re.fullmatch(r"(.*?)(?: now|( in )([0-9]+) m)", text).groups()  # type: ignore[union-attr]
    return manoeuvre, float(distance) if spoken else 0.0


def _short_camera(camera: str) -> str:
    """nuPlan's names without their common "CAM_"."""
    return camera[4:] if re.fullmatch("CAM_[A-Z][0-9]", camera) else camera


def _long_camera(short: str) -> str:
    return f"CAM_{short}" if re.fullmatch("[A-Z][0-9]", short) else short


def _read_count(part: str) -> tuple[str, int]:
    number, words = part.split()
    return words.removesuffix("s"), int(number)


def motion_words(motion: Motion | None) -> str:
    """A proposal in words, as "keep -1 80%"."""
    if motion is None:
        return "nothing"
    offset = decimals(motion.offset_m, 1)
    return f"{motion.path}{f' {offset:+g}' if offset else ''} {decimals(motion.speed_fraction * 100.0, 0):.0f}%"


def _read_motion(text: str) -> Motion | None:
    if text == "nothing":
        return None
    path, *offset, share = text.split(" ")
    return Motion(path=path, offset_m=float(offset[0]) if offset else 0.0, speed_fraction=float(share[:-1]) / 100.0)


def _show_blame(blame: Blame) -> str:
    about = "" if blame.about is None else f" {blame.about}"
    time = "" if blame.time_s is None else f" in {decimals(blame.time_s, 1):.1f} s"
    return f"{TERM_WORDS[blame.term]}{about}{time}"


def _read_blame(text: str) -> Blame:
    word, about, time = re.fullmatch(rf"([a-z_-]+)(?: ({_NAME}))?(?: in (-?[0-9.]+) s)?", text).groups()  # type: ignore[union-attr]
    term = next(name for name, known in TERM_WORDS.items() if known == word)
    return Blame(term=term, about=about, time_s=None if time is None else float(time))


def _show_score(value: tuple[float, Blame | None]) -> str:
    return f"{decimals(value[0], 2):.2f}" + ("" if value[1] is None else f" for {_show_blame(value[1])}")


def _read_score(text: str) -> tuple[float, Blame | None]:
    number, _, blame = text.partition(" for ")
    return float(number), _read_blame(blame) if blame else None


def _show_group(group: Losers) -> str:
    return f"{group.count} {_show_blame(Blame(term=group.term, about=group.about))}"


def _read_losers(text: str) -> tuple[Losers, ...]:
    if text == "none":
        return ()
    parts = [part.split(" ", 1) for part in text.split(", ")]
    blames = [_read_blame(blame) for _, blame in parts]
    return tuple(Losers(count=int(n), term=b.term, about=b.about) for (n, _), b in zip(parts, blames, strict=True))


def _read_follower(text: str) -> tuple[str, float, float] | None:
    if not text:
        return None
    _, name, accel, _, safe = text[1:].split(" ")
    return name, float(accel), float(safe)


FOLLOW = "follow the road"
# A term's name says what is good; that for which something loses is the opposite, in a word.
_FAULTS = {
    "no_at_fault_collision": "collision",
    "drivable_area": "off-road",
    "driving_direction": "wrong-way",
    "right_of_way": "right-of-way",
    "time_to_collision": "ttc",
}
TERM_WORDS: dict[str | None, str] = {name: _FAULTS.get(name, name) for name in TERMS}
TERM_WORDS[None] = "order"  # an equal score, later in the list
_NAME = r"[a-z]+-[1-9][0-9]{0,3}"
_MOTION = rf"nothing|(?:{'|'.join(PATHS)})(?: [+-][0-9]{{1,3}}(?:\.[0-9])?)? [0-9]{{1,3}}%"
_BLAME = rf"(?:{'|'.join(TERM_WORDS.values())})(?: {_NAME})?(?: in -?[0-9]{{1,3}}\.[0-9] s)?"
_LOSERS = rf"[1-9][0-9]{{0,3}} (?:{'|'.join(TERM_WORDS.values())})(?: {_NAME})?"
_SOME = r"(?:-|-?[0-9]{1,3}\.[0-9]{2})"
_HUNDREDTHS = r"-?[0-9]{1,3}\.[0-9]{2}"
_COUNT = rf"[1-9][0-9]{{0,3}} (?:{'|'.join(KIND_WORDS.values())})s?"
_NUMBER_ROW = rf"-?[0-9]{{1,3}}\.[0-9]{{2}}(?: -?[0-9]{{1,3}}\.[0-9]{{2}}){{{N_STEPS}}}"
KINDS: dict[str, Kind] = {
    "0": _number(0),
    "1": _number(1),
    "2": _number(2),
    "name": Kind(regex=_NAME, show=str, read=str),
    "whom": Kind(  # also someone who may come from where the ego cannot look
        regex=rf"{_NAME}|unseen",
        show=lambda v: v[0] or "unseen",
        read=lambda text: (None if text == "unseen" else text,),
    ),
    "kind": _word(*KIND_WORDS.values()),
    "sector": _word(*sorted(SECTORS, key=len, reverse=True)),
    "rule": _word(*RULES),
    "manoeuvre": _word(*MANOEUVRES),
    "path": _word(*PATHS),
    "reason": _word(*LANE_CHANGE_REASONS),
    "mark": _word(" binds", " ties", ""),
    "about": Kind(
        regex=rf"(?: {_NAME})?",
        show=lambda v: "" if v is None else f" {v}",
        read=lambda text: text[1:] or None,
    ),
    "light": Kind(
        regex="|".join(("none", *LIGHT_WORDS.values())),
        show=lambda v: "none" if v is None else str(v),
        read=lambda text: None if text == "none" else text,
    ),
    "limit": Kind(
        regex=r"[0-9]{1,3}\.[0-9]{2} m/s|not known",
        show=lambda v: "not known" if v is None else f"{decimals(v, 2):.2f} m/s",
        read=lambda text: None if text == "not known" else float(text.removesuffix(" m/s")),
    ),
    "speed": Kind(  # of an object; the common case is short
        regex=r"[0-9]{1,3}\.[0-9] m/s|stands",
        show=lambda v: "stands" if decimals(v, 1) == 0.0 else f"{decimals(v, 1):.1f} m/s",
        read=lambda text: 0.0 if text == "stands" else float(text.removesuffix(" m/s")),
    ),
    "offset": Kind(  # from the centerline; nothing where the ego is on it
        regex=r"(?: offset -?[0-9]{1,3}\.[0-9])?",
        show=lambda v: "" if decimals(v, 1) == 0.0 else f" offset {decimals(v, 1):.1f}",
        read=lambda text: float(text.removeprefix(" offset ")) if text else 0.0,
    ),
    "cameras": Kind(
        regex=r"(?:, [A-Za-z0-9_]+(?: [A-Za-z0-9_]+)*)?",
        show=lambda v: f", {' '.join(_short_camera(camera) for camera in v)}" if v else "",
        read=lambda text: tuple(_long_camera(camera) for camera in text[2:].split()),
    ),
    "in_view": Kind(
        regex=rf"nothing|{_COUNT}(?:, {_COUNT})*",
        show=lambda v: ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in v) or "nothing",
        read=lambda text: tuple(_read_count(part) for part in text.split(", ")) if text != "nothing" else (),
    ),
    "command": Kind(
        regex=rf"{FOLLOW}|(?:{'|'.join(TURN_WORDS.values())})(?: now| in [1-9][0-9]{{0,3}} m)",
        show=_show_command,
        read=_read_command,
    ),
    "motion": Kind(regex=_MOTION, show=motion_words, read=_read_motion),
    "rival": Kind(  # a motion or None, in a tuple: here None is something to say
        regex=_MOTION, show=lambda v: motion_words(v[0]), read=lambda text: (_read_motion(text),)
    ),
    "score": Kind(regex=rf"{_HUNDREDTHS}(?: for {_BLAME})?", show=_show_score, read=_read_score),
    "margin": Kind(regex=rf"{_HUNDREDTHS} for {_BLAME}", show=_show_score, read=_read_score),
    "losers": Kind(
        regex=rf"none|{_LOSERS}(?:, {_LOSERS})*",
        show=lambda v: ", ".join(_show_group(group) for group in v) or "none",
        read=_read_losers,
    ),
    "follower": Kind(  # what the change asks of it, and what it may ask
        regex=rf"(?: follower {_NAME} {_HUNDREDTHS} of {_HUNDREDTHS})?",
        show=lambda v: "" if v is None else f" follower {v[0]} {decimals(v[1], 2):.2f} of {decimals(v[2], 2):.2f}",
        read=_read_follower,
    ),
    "safe": Kind(
        regex=rf"safe|unsafe|blocked by {_NAME}",
        show=lambda v: "safe" if v[0] else "unsafe" if v[1] is None else f"blocked by {v[1]}",
        read=lambda text: (text == "safe", text.removeprefix("blocked by ") if text.startswith("b") else None),
    ),
    "way": Kind(  # of a phase; nothing where it keeps its lane
        regex=rf"(?:, (?:{'|'.join(PATHS[1:])}))?",
        show=lambda v: "" if v == PATHS[0] else f", {v}",
        read=lambda text: text[2:] or PATHS[0],
    ),
    "some": Kind(  # a row of which most need not be said
        regex=rf"{_SOME}(?: {_SOME}){{{N_STEPS - 1}}}",
        show=lambda values: " ".join("-" if v is None else f"{decimals(v, 2):.2f}" for v in values),
        read=lambda text: tuple(None if v == "-" else float(v) for v in text.split()),
    ),
    "row": Kind(
        regex=_NUMBER_ROW,
        show=lambda values: " ".join(f"{decimals(v, 2):.2f}" for v in values),
        read=lambda text: tuple(float(v) for v in text.split()),
    ),
}


class Template:
    """A line: fixed words and {field:kind} places, compiled to a formatter and to a regular expression.

    What stands in [brackets] around a place is left out with it where its value is None.
    """

    def __init__(self, line: str) -> None:
        self.fixed, self.fields, self.kinds, at = [], [], [], 0
        for match in re.finditer(r"\[([^\[{]*)\{(\w+):(\w+)\}([^\]]*)\]|\{(\w+):(\w+)\}", line):
            before, maybe, maybe_kind, after, field, kind = match.groups()
            self.fixed.append(line[at : match.start()])
            self.fields.append((maybe or field, maybe_kind or kind))
            self.kinds.append(_optional(before, KINDS[maybe_kind], after) if maybe else KINDS[kind])
            at = match.end()
        self.fixed.append(line[at:])
        self._names = [field for field, _ in self.fields]
        self._readers = [_reader(kind) for kind in self.kinds]
        kinds = [kind.regex for kind in self.kinds] + [""]
        escaped = [re.escape(fixed) for fixed in self.fixed]
        self._groups = re.compile("".join(f"{a}({b})" for a, b in zip(escaped, kinds, strict=True)))
        self.regex = "".join(f"{a}(?:{b})" for a, b in zip(escaped, kinds, strict=True))

    def format(self, values: Mapping[str, Any]) -> str:
        line = self.fixed[0]
        for field, kind, after in zip(self._names, self.kinds, self.fixed[1:], strict=True):
            line += kind.show(values[field]) + after
        return line

    def read(self, line: str) -> dict[str, Any] | None:
        """The fields of a line, None where it is not exactly a line that `format` writes."""
        match = self._groups.fullmatch(line)
        if match is None:
            return None
        values: dict[str, Any] = {}
        for field, reader, text in zip(self._names, self._readers, match.groups(), strict=False):
            values[field], as_written = reader(text)
            if not as_written:
                return None  # no "-0.00", no "007"
        return values

    def reaches(self, line: str) -> int:
        """How many characters of a line fit this template's beginning."""
        at = 0
        for i, fixed in enumerate(self.fixed):
            if not line.startswith(fixed, at):
                return at + next((k for k, c in enumerate(fixed) if at + k >= len(line) or line[at + k] != c), 0)
            at += len(fixed)
            if i < len(self.fields):
                match = re.compile(self.kinds[i].regex).match(line, at)
                if match is None:
                    return at
                at = match.end()
        return at


def _reader(kind: Kind) -> Callable[[str], tuple[Any, bool]]:
    """Of a text: what it reads, and whether that is written so. Most of what a text says has been said before; what is long has
    not, and would be long to keep."""

    def read(text: str) -> tuple[Any, bool]:
        value = kind.read(text)
        return value, kind.show(value) == text

    known = lru_cache(maxsize=4096)(read)
    return lambda text: (known if len(text) < 64 else read)(text)


def _optional(before: str, kind: Kind, after: str) -> Kind:
    def show(value: Any) -> str:
        return "" if value is None else f"{before}{kind.show(value)}{after}"

    def read(text: str) -> Any:
        return kind.read(text[len(before) : len(text) - len(after)]) if text else None

    return Kind(regex=f"(?:{re.escape(before)}(?:{kind.regex}){re.escape(after)})?", show=show, read=read)


# ---- the table ----------------------------------------------------------------------------------------------------------

SCENE = Template("Scene: {in_view:in_view} in view, light {light:light}")
ROUTE = Template("Route: {command:command}, limit {limit:limit}")
OBJECT = Template("{name:name} {distance_m:1} m {sector:sector}, {speed_mps:speed}{cameras:cameras}")
HIDDEN = Template("{name:name} ({kind:kind}) {distance_m:1} m {sector:sector}, {speed_mps:speed}, not seen")
LATER = Template("{name:name} ({kind:kind}) comes later")
# In brackets: left out where it is as it was when last said (an offset at first 0.0), which is most of a text's length.
# "moved" is said where speeds and accelerations alone would not tell how far the next half second goes.
STEP = Template("{time_s:1} speed {speed_mps:2} accel {accel_mps2:2}[ offset {lateral_offset_m:1}][ moved {moved_m:2}]")
_ALLOWS = "[ allows {allows_mps2:2}]{mark:mark}"
_GAP, _NEEDS = "[ {about:whom}][ gap {gap_m:1}]", "[ needs {threshold:1}]"
EVALUATIONS = {
    rule: Template(rule + pieces + _ALLOWS)
    for rule, pieces in {
        "target_speed": "[ {threshold:2}]",
        "curve_speed": "[ {threshold:1}][ in {distance_m:1}][ radius {radius_m:1}]",
        "path_end": "[ gap {gap_m:1}]" + _NEEDS,
        "lead": _GAP + "[ speed {lead_speed_mps:1}]" + _NEEDS,
        "red_light": _GAP + _NEEDS,
        "amber_light": _GAP + "[ accel {accel_mps2:1}][ brakes up to {threshold:1}]",
        "stop_sign": _GAP + "[ waited {waited_s:1}][ of {threshold:1}][ crossing {crossing:0}]",
        "crosswalk": _GAP + _NEEDS,
        "yield": _GAP + "[ clears {clears_s:1}][ arrives {arrives_s:1}][ margin {threshold:1}]",
        "emergency_brake": "[ {about:whom}][ collision in {collision_s:1}][ within {threshold:1}]",
    }.items()
}
# What was chosen, its score and what keeps it from 1.0; the runner-up, by how much and for what it loses; why the others do.
CHOICE = Template("choose[ {chosen:motion}][ scores {score:score}][ over {runner_up:rival}][ by {margin:margin}]")
NO_CHOICE = Template("choose nothing")
LOSERS = Template("lose {losers:losers}")
# A neighbouring lane, said when its verdict is new: incentive against threshold; then what the follower would have to brake.
LANE_UNWANTED = Template("{path:path} for {reason:reason} {incentive_mps2:2} of {threshold_mps2:2}")
LANE_WANTED = Template(
    "{path:path} for {reason:reason} {incentive_mps2:2} of {threshold_mps2:2}{behind:follower} {safe:safe}"
)
LANE_GONE = Template("no {path:path}")
# From the end of the phase before. Only in brief: who reads the steps has read it.
PHASE = Template("until {end_s:1} s {rule:rule}{about:about}: {manoeuvre:manoeuvre}{path:way}{offset_m:offset}")
SPEEDS = Template("speed {values:row}")
ACCELS = Template("accel {values:row}")
MOVED = Template("moved {values:some}")
TURNED = Template("turned {turned_deg:0} deg")


@cache
def places(rule: str, field: str) -> int:
    """How many decimals a rule's template prints of a field: what a check must allow for."""
    return int(next(kind for name, kind in EVALUATIONS[rule].fields if name == field))


def pattern(level: str) -> str:
    """A regular expression that matches every text of this level, from the same templates: for constrained decoding."""
    if known_level(level) == "none":
        return ""
    one_of = "|".join(t.regex for t in (OBJECT, HIDDEN, LATER))
    head = rf"{SCENE.regex}\n{ROUTE.regex}\n(?:(?:{one_of})\n)*"
    if level == "brief":
        return rf"{head}(?:{PHASE.regex}\n)+{SPEEDS.regex}\n{ACCELS.regex}\n(?:{MOVED.regex}\n)?{TURNED.regex}"
    evaluations = "|".join(t.regex for t in EVALUATIONS.values())
    lanes = "|".join(t.regex for t in (LANE_WANTED, LANE_UNWANTED, LANE_GONE))
    choice = rf"(?:(?:{CHOICE.regex}|{NO_CHOICE.regex})\n)?(?:{LOSERS.regex}\n)?(?:(?:{lanes})\n)*"
    step = rf"{STEP.regex}\n{choice}(?:(?:{evaluations})\n)+"
    return rf"{head}(?:{step}){{{N_STEPS}}}{STEP.regex}\n{TURNED.regex}"


def known_level(level: str) -> str:
    """The level itself, or ValueError with the list."""
    if level not in LEVELS:
        raise ValueError(f"No trace level '{level}'. Known: {', '.join(LEVELS)}")
    return level
