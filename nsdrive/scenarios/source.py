"""What every source of scenarios has in common."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

from nsdrive.scenarios.recorded import RecordedCamera


class ScenarioError(ValueError):
    """One scenario cannot be loaded: its files are missing, malformed, truncated, too short or contradict themselves.

    The message is a single line that names the file and the problem. Whoever loads many scenarios catches this,
    records the line beside the scenario's id, counts it, and goes on to the next; nothing is skipped quietly.
    """


class ScenarioSource(Protocol):
    """A place where scenarios come from. Items are listed cheaply, in a fixed order, and loaded one at a time."""

    @property
    def name(self) -> str: ...

    @property
    def licence(self) -> str:
        """Where the scenes come from and under which licence, for the dataset card."""
        ...

    def items(self) -> Sequence[str]:
        """Names of all scenarios, in order. Raises ValueError where the source itself is unusable."""

    def load(self, item: str) -> Any:
        """The Scenario of that name. Raises ScenarioError."""

    def cameras(self, item: str) -> Sequence[RecordedCamera]:
        """What the log's own cameras saw; empty where it has none. ScenarioError where their calibration is unusable."""


def checksum(items: Sequence[str]) -> int:
    """Of a source's items, by which a folder that is gone on with knows that they are those that it was begun with."""
    return zlib.crc32("\n".join(items).encode())
