"""What the VLA's tests share: a small dataset and a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from vla_fixtures import make_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen3.5 of the built-in corpus."""
    from nsdrive.vla.tiny import build_tiny

    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny(folder)
    return folder
