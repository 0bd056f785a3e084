"""What can be set about how answers are made. No torch here: a worker is told it as JSON."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from nsdrive.config import did_you_mean

MODES = (
    "full",  # reason, then plan
    "plan",  # waypoints at once: the answer begins with them
    "head",  # waypoints of the trajectory head alone, one forward, no token is generated
)
TEMPERATURE = 0.7  # of several answers, where none is given; chosen by us: at 1.0 digits drift, near 0 all are the same


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """constrained: under the grammar, so that every answer parses. max_reasoning_tokens: the budget of the free text, None: the
    trace level's own. best_of: so many answers are drawn, and the one is taken whose waypoints do what its text says.
    temperature: 0 takes the likeliest tokens; None: 0 for one answer, TEMPERATURE for several. seed: of what is drawn."""

    mode: str = "full"
    constrained: bool = True
    max_reasoning_tokens: int | None = None
    best_of: int = 1
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"No mode '{self.mode}'. {did_you_mean(self.mode, MODES)}")
        if self.max_reasoning_tokens is not None and self.max_reasoning_tokens < 1:
            raise ValueError(f"max_reasoning_tokens must be at least 1, got {self.max_reasoning_tokens}")
        if self.best_of < 1:
            raise ValueError(f"--best-of must be at least 1, got {self.best_of}")
        if self.temperature is not None and not 0.0 <= self.temperature <= 10.0:
            raise ValueError(f"--temperature must be 0 to 10, got {self.temperature}")
        if self.best_of > 1 and self.temperature == 0.0:
            raise ValueError(f"--best-of {self.best_of} at --temperature 0 is the same answer {self.best_of} times")
        if self.mode == "head" and (self.best_of > 1 or self.temperature):
            raise ValueError("--mode head draws nothing: leave --best-of and --temperature out")
        if self.mode == "plan" and self.best_of > 1:
            raise ValueError("--best-of chooses by the answers' text, and --mode plan has none")

    @property
    def drawn_at(self) -> float:
        """The temperature."""
        if self.temperature is not None:
            return self.temperature
        return TEMPERATURE if self.best_of > 1 else 0.0

    def seed_of(self, question_id: str, candidate: int) -> int:
        """An answer's own seed: the same in every batch, on every worker."""
        key = f"{self.seed}\n{candidate}\n{question_id}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(key).digest()[:6], "big")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
