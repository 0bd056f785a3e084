"""Traffic-light programs: which connectors are green together, and what each shows at every tick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nsdrive.scenarios.synthetic.roads import RoadNetwork
from nsdrive.world.types import INTERVAL_S, IntArray

GREEN, YELLOW, RED = 0, 1, 2  # rows of `_STATES`
_STATES = ("green", "yellow", "red")


@dataclass(frozen=True, kw_only=True)
class SignalPlan:
    """One junction's cycle: phase k is green for green_s[k], yellow for yellow_s, then all arms are red for all_red_s.

    phases: connector ids that are green together. offset_s: where in the cycle tick 0 is.
    """

    phases: tuple[tuple[str, ...], ...]
    green_s: tuple[float, ...]
    yellow_s: float
    all_red_s: float
    offset_s: float = 0.0

    @property
    def cycle_s(self) -> float:
        return sum(self.green_s) + len(self.phases) * (self.yellow_s + self.all_red_s)

    def starts_s(self, phase: int) -> float:
        """When `phase` turns green, in seconds after the cycle's start."""
        return sum(self.green_s[:phase]) + phase * (self.yellow_s + self.all_red_s)

    def phase_of(self, connector_id: str) -> int:
        return next(k for k, connectors in enumerate(self.phases) if connector_id in connectors)

    def states(self, ticks: int) -> IntArray:
        """(phases, ticks): GREEN, YELLOW or RED."""
        times = np.arange(ticks) * INTERVAL_S + self.offset_s
        rows = np.full((len(self.phases), ticks), RED, dtype=np.int8)
        for k, green_s in enumerate(self.green_s):
            since = (times - self.starts_s(k) + 1e-6) % self.cycle_s
            rows[k, since < green_s] = GREEN
            rows[k, (since >= green_s) & (since < green_s + self.yellow_s)] = YELLOW
        return rows

    def lights(self, ticks: int) -> tuple[Mapping[str, str], ...]:
        """What every connector shows at every tick; ticks without a change share one mapping."""
        rows = self.states(ticks)
        seen: dict[bytes, Mapping[str, str]] = {}
        answer = []
        for column in rows.T:
            key = column.tobytes()
            if key not in seen:
                seen[key] = {c: _STATES[state] for state, group in zip(column, self.phases, strict=True) for c in group}
            answer.append(seen[key])
        return tuple(answer)

    def with_green(self, connector_id: str, least_s: float) -> SignalPlan:
        """The same program with this connector green for at least this long."""
        phase = self.phase_of(connector_id)
        green_s = tuple(max(g, least_s) if k == phase else g for k, g in enumerate(self.green_s))
        return replace(self, green_s=green_s)

    def shifted(
        self, connector_id: str, *, green_at_s: float | None = None, yellow_at_s: float | None = None
    ) -> SignalPlan:
        """The same program with this connector turning green, or else yellow, at the given time after tick 0."""
        phase = self.phase_of(connector_id)
        if green_at_s is None:
            green_at_s = (yellow_at_s or 0.0) - self.green_s[phase]
        return replace(self, offset_s=(self.starts_s(phase) - green_at_s) % self.cycle_s)


def make_signal_plan(network: RoadNetwork, junction: str, rng: np.random.Generator) -> SignalPlan:
    """A seeded program for a signalised junction, in which no two conflicting movements are ever green together but left
    turns and who comes towards them where the phasing is permissive."""
    phases = _phases(network, junction)
    return SignalPlan(
        phases=phases,
        green_s=tuple(float(v) for v in np.round(rng.uniform(9.0, 16.0, len(phases)), 1)),
        yellow_s=float(np.round(rng.uniform(3.0, 4.0), 1)),  # 3-4 s for urban limits: MUTCD section 4F.17
        all_red_s=float(np.round(rng.uniform(1.5, 2.5), 1)),
    )


def _phases(network: RoadNetwork, junction: str) -> tuple[tuple[str, ...], ...]:
    movements = [m for m in network.movements if m.junction == junction]
    arms = list(dict.fromkeys(m.from_road for m in movements))
    if network.junctions[junction].phasing == "split":
        return tuple(tuple(m.connector_id for m in movements if m.from_road == arm) for arm in arms)
    opposite = {m.from_road: m.to_road for m in movements if m.turn == "straight"}
    phases = []
    done: set[str] = set()
    for arm in arms:
        if arm in done:
            continue
        pair = {arm, opposite.get(arm, arm)}
        done |= pair
        mine = [m for m in movements if m.from_road in pair]
        if arm not in opposite:  # a stem: all of it at once
            phases.append(tuple(m.connector_id for m in mine))
            continue
        if network.junctions[junction].phasing == "permissive":
            phases.append(tuple(m.connector_id for m in mine))
            continue
        phases.append(tuple(m.connector_id for m in mine if m.turn != "left"))
        lefts = tuple(m.connector_id for m in mine if m.turn == "left")
        if lefts:
            phases.append(lefts)
    return tuple(phases)
