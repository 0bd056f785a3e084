"""Of several answers to one question, the one whose waypoints do what its own text says.

    chosen = best_of([said, said, said])
    chosen.index, chosen.candidates[2].replay_error_m

The trace is read from the text and replayed (`nsdrive.trace.replay`): how far the ego goes in each half second. Waypoints
agree with it as well as the arc length along them does. A model that writes a motion and drives another contradicts itself,
and that can be seen without knowing the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsdrive.trace.replay import replay
from nsdrive.trace.text import parse
from nsdrive.vla.inference.engine import Said
from nsdrive.vla.prompt import Answer, parse_answer

SAME_M = 0.01  # errors this close tie: waypoints are printed in centimetres


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """replay_error_m: mean over ten half seconds of |progress that the text states - arc length of the waypoints|, None where
    the text or the waypoints cannot be read. log_likelihood: None where the engine does not tell."""

    readable: bool
    replay_error_m: float | None
    log_likelihood: float | None
    n_tokens: int

    def to_json(self) -> dict[str, Any]:
        return {
            "replay_error_m": self.replay_error_m,
            "log_likelihood": self.log_likelihood,
            "n_tokens": self.n_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class Chosen:
    index: int
    candidates: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        return {"chosen": self.index, "candidates": [one.to_json() for one in self.candidates]}


def best_of(answers: Sequence[Said]) -> Chosen:
    """The least replay error, of ties the likeliest, of these the first; then answers without a trace that can be read, and
    last those without waypoints."""
    candidates = tuple(_candidate(one) for one in answers)

    def order(k: int) -> tuple[bool, bool, int, float, int]:
        one = candidates[k]
        error = 0 if one.replay_error_m is None else round(one.replay_error_m / SAME_M)
        likelihood = 0.0 if one.log_likelihood is None else one.log_likelihood
        return not one.readable, one.replay_error_m is None, error, -likelihood, k

    return Chosen(index=min(range(len(candidates)), key=order), candidates=candidates)


def replay_error_m(answer: Answer) -> float | None:
    """Mean over the ten half seconds, in metres; None where the text states no motion or there are no waypoints."""
    if answer.reasoning is None or answer.waypoints_ego_m is None:
        return None
    try:
        said_m = replay(parse(answer.reasoning)).progress_m[1:]
    except ValueError:
        return None
    steps = np.diff(np.concatenate([np.zeros((1, 2)), answer.waypoints_ego_m]), axis=0)
    driven_m = np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))
    error = float(np.abs(said_m - driven_m).mean())
    return round(error, 4) if np.isfinite(error) else None


def _candidate(said: Said) -> Candidate:
    answer = parse_answer(said.text)
    return Candidate(
        readable=answer.waypoints_ego_m is not None,
        replay_error_m=replay_error_m(answer),
        log_likelihood=said.log_likelihood,
        n_tokens=said.n_tokens,
    )
