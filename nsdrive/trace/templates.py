"""The table of templates: every line that a text may hold, and from it the formatter, the reader and the grammar.

A template is a line with {field:kind} places; a kind is how a value is shown, what it may look like, and how it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nsdrive.trace.trace import KIND_WORDS, LIGHT_WORDS, MANOEUVRES, N_STEPS, SECTORS, decimals
from nsdrive.world.navigation import TURN_WORDS, Navigation
from nsdrive.world.rules import RULES

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


FOLLOW = "follow the road"
_COUNT = rf"[1-9][0-9]{{0,3}} (?:{'|'.join(KIND_WORDS.values())})s?"
_NUMBER_ROW = rf"-?[0-9]{{1,3}}\.[0-9]{{2}}(?: -?[0-9]{{1,3}}\.[0-9]{{2}}){{{N_STEPS}}}"
KINDS: dict[str, Kind] = {
    "0": _number(0),
    "1": _number(1),
    "2": _number(2),
    "name": Kind(regex=r"[a-z]+-[1-9][0-9]{0,3}", show=str, read=str),
    "kind": _word(*KIND_WORDS.values()),
    "sector": _word(*sorted(SECTORS, key=len, reverse=True)),
    "rule": _word(*RULES),
    "manoeuvre": _word(*MANOEUVRES),
    "mark": _word(" binds", " ties", ""),
    "about": Kind(
        regex=r"(?: [a-z]+-[1-9][0-9]{0,3})?",
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
    "row": Kind(
        regex=_NUMBER_ROW,
        show=lambda values: " ".join(f"{decimals(v, 2):.2f}" for v in values),
        read=lambda text: tuple(float(v) for v in text.split()),
    ),
}


class Template:
    """A line: fixed words and {field:kind} places, compiled to a formatter and to a regular expression."""

    def __init__(self, line: str) -> None:
        parts = re.split(r"\{(\w+):(\w+)\}", line)
        self.fixed, self.fields = parts[::3], list(zip(parts[1::3], parts[2::3], strict=True))
        kinds = [KINDS[kind].regex for _, kind in self.fields] + [""]
        escaped = [re.escape(fixed) for fixed in self.fixed]
        self._groups = re.compile("".join(f"{a}({b})" for a, b in zip(escaped, kinds, strict=True)))
        self.regex = "".join(f"{a}(?:{b})" for a, b in zip(escaped, kinds, strict=True))

    def format(self, values: Mapping[str, Any]) -> str:
        shown = [KINDS[kind].show(values[field]) for field, kind in self.fields]
        return "".join(a + b for a, b in zip(self.fixed, [*shown, ""], strict=True))

    def read(self, line: str) -> dict[str, Any] | None:
        """The fields of a line, None where it is not exactly a line that `format` writes."""
        match = self._groups.fullmatch(line)
        if match is None:
            return None
        values = {f: KINDS[kind].read(text) for (f, kind), text in zip(self.fields, match.groups(), strict=False)}
        return values if self.format(values) == line else None  # no "-0.00", no "007"

    def reaches(self, line: str) -> int:
        """How many characters of a line fit this template's beginning."""
        at = 0
        for i, fixed in enumerate(self.fixed):
            if not line.startswith(fixed, at):
                return at + next((k for k, c in enumerate(fixed) if at + k >= len(line) or line[at + k] != c), 0)
            at += len(fixed)
            if i < len(self.fields):
                match = re.compile(KINDS[self.fields[i][1]].regex).match(line, at)
                if match is None:
                    return at
                at = match.end()
        return at


# ---- the table ----------------------------------------------------------------------------------------------------------

SCENE = Template("Scene: {in_view:in_view} in view, light {light:light}")
ROUTE = Template("Route: {command:command}, limit {limit:limit}")
OBJECT = Template("{name:name} {distance_m:1} m {sector:sector}, {speed_mps:speed}{cameras:cameras}")
HIDDEN = Template("{name:name} ({kind:kind}) {distance_m:1} m {sector:sector}, {speed_mps:speed}, not seen")
LATER = Template("{name:name} ({kind:kind}) comes later")
STEP = Template("{time_s:1} speed {speed_mps:2} accel {accel_mps2:2}{lateral_offset_m:offset}")
_ALLOWS = " allows {allows_mps2:2}{mark:mark}"
EVALUATIONS = {
    "target_speed": Template("target_speed {threshold:2}" + _ALLOWS),
    "curve_speed": Template("curve_speed {threshold:1} in {distance_m:1} radius {radius_m:1}" + _ALLOWS),
    "path_end": Template("path_end gap {gap_m:1} needs {threshold:1}" + _ALLOWS),
    "lead": Template("lead {about:name} gap {gap_m:1} speed {lead_speed_mps:1} needs {threshold:1}" + _ALLOWS),
    "red_light": Template("red_light {about:name} gap {gap_m:1} needs {threshold:1}" + _ALLOWS),
    "amber_light": Template(
        "amber_light {about:name} gap {gap_m:1} accel {accel_mps2:1} brakes up to {threshold:1}" + _ALLOWS
    ),
    "stop_sign": Template(
        "stop_sign {about:name} gap {gap_m:1} waited {waited_s:1} of {threshold:1} crossing {crossing:0}" + _ALLOWS
    ),
    "crosswalk": Template("crosswalk {about:name} gap {gap_m:1} needs {threshold:1}" + _ALLOWS),
    "yield": Template(
        "yield {about:name} gap {gap_m:1} clears {clears_s:1} arrives {arrives_s:1} margin {threshold:1}" + _ALLOWS
    ),
    "emergency_brake": Template(
        "emergency_brake {about:name} collision in {collision_s:1} within {threshold:1}" + _ALLOWS
    ),
}
# What is as it was in the last evaluation of the same rule need not be said again: lossless, and most of a text's length.
REPEATED = {
    "target_speed": Template("target_speed" + _ALLOWS),
    "curve_speed": Template("curve_speed {threshold:1} in {distance_m:1}" + _ALLOWS),
    "lead": Template("lead gap {gap_m:1} speed {lead_speed_mps:1} needs {threshold:1}" + _ALLOWS),
    "red_light": Template("red_light gap {gap_m:1} needs {threshold:1}" + _ALLOWS),
    "amber_light": Template("amber_light gap {gap_m:1} accel {accel_mps2:1}" + _ALLOWS),
    "stop_sign": Template("stop_sign gap {gap_m:1} waited {waited_s:1} crossing {crossing:0}" + _ALLOWS),
    "crosswalk": Template("crosswalk gap {gap_m:1} needs {threshold:1}" + _ALLOWS),
    "yield": Template("yield gap {gap_m:1} clears {clears_s:1} arrives {arrives_s:1}" + _ALLOWS),
    "emergency_brake": Template("emergency_brake collision in {collision_s:1}" + _ALLOWS),
}
PHASE = Template("{start_s:1} to {end_s:1} s {rule:rule}{about:about}: {manoeuvre:manoeuvre}")
SPEEDS = Template("speed {values:row}")
ACCELS = Template("accel {values:row}")
TURNED = Template("turned {turned_deg:0} deg")


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
        return rf"{head}(?:{PHASE.regex}\n)+{SPEEDS.regex}\n{ACCELS.regex}\n{TURNED.regex}"
    evaluations = "|".join(t.regex for t in (*EVALUATIONS.values(), *REPEATED.values()))
    return rf"{head}(?:{STEP.regex}\n(?:(?:{evaluations})\n)+){{{N_STEPS}}}{STEP.regex}\n{TURNED.regex}(?:\n{PHASE.regex})+"


def known_level(level: str) -> str:
    """The level itself, or ValueError with the list."""
    if level not in LEVELS:
        raise ValueError(f"No trace level '{level}'. Known: {', '.join(LEVELS)}")
    return level
