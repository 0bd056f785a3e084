"""A predictions file as its rows, for tests that look at what was answered."""

from pathlib import Path

from eval.open_loop.predictions_file import read_file
from nsdrive.dataset import Prediction


def predictions_in(path: str | Path) -> list[Prediction]:
    file = read_file(Path(path))
    return [file.prediction(row) for row in range(len(file.ids))]
