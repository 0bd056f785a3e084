"""The one door to all sources of scenarios.

source = open_source("synthetic", SyntheticConfig(seed=7))
for item in source.items():
    scenario = source.load(item)          # ScenarioError: one line that says why not
"""

from __future__ import annotations

from typing import Any

from nsdrive.scenarios.source import ScenarioSource


def source_configs() -> dict[str, type]:
    """Name of a source -> its config, for `load_config(..., choices={"scenarios": source_configs()})`."""
    from nsdrive.scenarios.argoverse2 import Argoverse2Config
    from nsdrive.scenarios.manoeuvres import ManoeuvresConfig
    from nsdrive.scenarios.nuplan import NuplanConfig
    from nsdrive.scenarios.py123d import Py123dConfig
    from nsdrive.scenarios.synthetic import SyntheticConfig

    return {
        "synthetic": SyntheticConfig,
        "manoeuvres": ManoeuvresConfig,
        "argoverse2": Argoverse2Config,
        "nuplan": NuplanConfig,
        "py123d": Py123dConfig,
    }


def open_source(name: str, config: Any) -> ScenarioSource:
    """The source of that name. Importing a source is left to here, so that one does not need the other's packages."""
    if name == "synthetic":
        from nsdrive.scenarios.synthetic import SyntheticSource

        return SyntheticSource(config)
    if name == "manoeuvres":
        from nsdrive.scenarios.manoeuvres import ManoeuvresSource

        return ManoeuvresSource(config)
    if name == "argoverse2":
        from nsdrive.scenarios.argoverse2 import Argoverse2Source

        return Argoverse2Source(config)
    if name == "nuplan":
        from nsdrive.scenarios.nuplan import NuplanSource

        return NuplanSource(config)
    if name == "py123d":
        from nsdrive.scenarios.py123d import Py123dSource

        return Py123dSource(config)
    raise ValueError(f"No scenario source '{name}'. Known: {', '.join(source_configs())}")
