"""Scenarios made from a seed: seventeen families of everyday driving, each with its own rule to provoke.

    config = SyntheticConfig(seed=7, families=("red_light", "cut_in"), n_scenarios=20)
    for scenario in load(config): ...
    build(config, 13)      # the same scenario in any process, at any time

Index i belongs to family i modulo the number of families. Nothing is downloaded and nothing is kept.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nsdrive.scenarios import families_free, families_lights
from nsdrive.scenarios.stage import SceneRejectedError
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, Scenario

FAMILIES = {**families_free.FAMILIES, **families_lights.FAMILIES}
ATTEMPTS = 40  # chosen by us: a draw in which someone would collide is drawn again; more than ten has not been seen


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What to generate. `families` empty means all of them; background_traffic scales everything that is not the subject."""

    seed: int = 0
    families: tuple[str, ...] = tuple(FAMILIES)
    n_scenarios: int = 2 * len(FAMILIES)
    duration_s: float = 15.0  # nuPlan's scenario length
    background_traffic: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families) or tuple(FAMILIES))
        for name in self.families:
            if name not in FAMILIES:
                near = difflib.get_close_matches(name, FAMILIES, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"No scenario family {name!r}.{hint} Known: {', '.join(FAMILIES)}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")
        if self.n_scenarios < 0:
            raise ValueError(f"n_scenarios is {self.n_scenarios}; it must be 0 or more")
        if not HISTORY_TICKS * INTERVAL_S < self.duration_s <= 60.0:
            raise ValueError(f"duration_s is {self.duration_s}; it must be above 2 (the ego's past) and at most 60")
        if not 0.0 <= self.background_traffic <= 3.0:
            raise ValueError(f"background_traffic is {self.background_traffic}; it must be between 0 (nobody) and 3")


def build(config: SyntheticConfig, index: int) -> Scenario:
    """Scenario number `index`: the same one for the same config, in any process. Any index from 0 on is valid."""
    if index < 0:
        raise ValueError(f"index is {index}; it must be 0 or more")
    family = config.families[index % len(config.families)]
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([config.seed, index, attempt])
        try:
            draft = FAMILIES[family](rng, config.duration_s, config.background_traffic)
            return draft.stage.finish(
                scenario_id=f"syn-{family}-{index:06d}-s{config.seed}",
                scenario_type=draft.scenario_type,
                split_key=f"synthetic-{config.seed}-{index}",
                notes={
                    "family": family,
                    "seed": config.seed,
                    "index": index,
                    "attempt": attempt,
                    **_plain(draft.notes),
                },
            )
        except SceneRejectedError:
            continue
    raise AssertionError(f"family {family} rejected {ATTEMPTS} draws of seed {config.seed}, index {index}")


def scenario_count(config: SyntheticConfig) -> int:
    """How many scenarios `load` yields."""
    return config.n_scenarios


def load(config: SyntheticConfig) -> Iterator[Scenario]:
    """Scenarios 0 to n_scenarios - 1."""
    return (build(config, index) for index in range(config.n_scenarios))


def _plain(notes: Mapping[str, object]) -> dict[str, object]:
    """Plain JSON values, numbers to three decimals."""
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in notes.items()}
