"""What every source of scenarios has in common, and the one door to all of them.

source = open_source("synthetic", SyntheticConfig(seed=7))
for item in source.items():
    scenario = source.load(item)          # ScenarioError: one line that says why not
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


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


def source_configs() -> dict[str, type]:
    """Name of a source -> its config, for `load_config(..., choices={"scenarios": source_configs()})`."""
    from nsdrive.scenarios.argoverse2 import Argoverse2Config
    from nsdrive.scenarios.synthetic import SyntheticConfig

    return {"synthetic": SyntheticConfig, "argoverse2": Argoverse2Config}


def open_source(name: str, config: Any) -> ScenarioSource:
    """The source of that name. Importing a source is left to here, so that one does not need the other's packages."""
    if name == "synthetic":
        from nsdrive.scenarios.synthetic import SyntheticSource

        return SyntheticSource(config)
    if name == "argoverse2":
        from nsdrive.scenarios.argoverse2 import Argoverse2Source

        return Argoverse2Source(config)
    raise ValueError(f"No scenario source '{name}'. Known: {', '.join(source_configs())}")
