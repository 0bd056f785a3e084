"""Whoever has not installed py123d reads one line about it, and nothing else of nsdrive needs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nsdrive.cli import main
from nsdrive.scenarios.py123d import Py123dConfig, Py123dSource

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def without_the_package(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "py123d"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "py123d", None)


def test_without_the_package_every_question_is_answered_by_how_to_install_it(without_the_package, tmp_path):
    source = Py123dSource(Py123dConfig(path=str(tmp_path)))
    for ask in (source.items, lambda: source.load("log@0"), lambda: source.cameras("log@0")):
        with pytest.raises(ValueError, match=r"pip install 'nsdrive\[logs\]'"):
            ask()


def test_the_command_line_says_it_in_one_line(without_the_package, tmp_path, capsys):
    assert main(["generate", "data/py123d", f"scenarios.path={tmp_path}", "--out", str(tmp_path / "set")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "nsdrive[logs]" in said[0]


def test_the_source_itself_imports_nothing_of_the_package():
    code = "import sys, nsdrive.scenarios.catalogue as c; c.source_configs(); assert 'py123d' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit_per_log": -1}, "limit_per_log is -1"),
        ({"scene_s": 3.0}, "a scene needs 7.1 s or more"),
        ({"map_margin_m": -1.0}, "must not be negative"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Py123dConfig(path=".", **settings)
