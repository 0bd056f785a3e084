"""Small nuPlan logs and maps for tests: a generated scene, written in nuPlan's format, and ways to change the files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.scenarios.nuplan_write import Written, write_scenario
from nsdrive.scenarios.synthetic import SyntheticConfig, SyntheticSource
from nsdrive.world.types import Scenario


def scene(family: str = "red_light_lead", seed: int = 4) -> Scenario:
    source = SyntheticSource(SyntheticConfig(seed=seed, families=(family,), n_scenarios=1))
    return source.load(source.items()[0])


def write_log(folder: Path, family: str = "red_light_lead", seed: int = 4) -> Written:
    """folder/logs/<scene>.db with one tag, folder/maps/<map>/<version>/map.gpkg."""
    return write_scenario(scene(family, seed), folder)


def source_of(folder: Path, **settings: object) -> NuplanSource:
    return NuplanSource(NuplanConfig(path=str(folder), **settings))  # type: ignore[arg-type]


def log_file(folder: Path) -> Path:
    return next(folder.rglob("*.db"))


def map_file(folder: Path) -> Path:
    """The scene's own map; empty ones of nuPlan's four cities lie beside it."""
    return next(folder.glob("maps/nsdrive-*/*/map.gpkg"))


def change(path: Path, *statements: str) -> None:
    """Run SQL on a file and keep what it did."""
    change_with(path, lambda database: [database.execute(statement) for statement in statements])


def change_with(path: Path, work: Callable[[sqlite3.Connection], object]) -> None:
    database = sqlite3.connect(path)
    work(database)
    database.commit()
    database.close()
