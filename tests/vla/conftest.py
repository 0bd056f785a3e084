"""What the VLA's tests share: a small dataset and a tiny model."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained tiny model, with small pictures."""
    from nsdrive.vla.model import load_processor, save_processor

    folder = tmp_path_factory.mktemp("model") / "small"
    shutil.copytree(tiny_folder, folder)
    save_processor(load_processor(tiny_folder, min_pixels=1024, max_pixels=2048), folder)
    return folder


@pytest.fixture
def own_signals() -> Iterator[None]:
    """A process that a signal ended listens no more: this one goes on."""
    from nsdrive.vla.training.stopping import SIGNALS

    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
