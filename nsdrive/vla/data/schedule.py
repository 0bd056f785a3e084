"""The order of training: which sample is the k-th, whoever asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nsdrive.vla.data.encoding import Encoded, encode
from nsdrive.vla.data.rows import Rows


class Schedule(torch.utils.data.Dataset[Encoded]):
    """The whole training as one sequence of samples: entry k is a pure function of (seed, k), whoever asks for it.

    Every epoch is its own permutation; nothing depends on the number of processes, so that one process and eight see
    the same global batches, and a resumed run goes on where it stopped by its step count alone.
    """

    def __init__(self, rows: Rows, processor: Any, *, n_samples: int, seed: int) -> None:
        if len(rows) == 0:
            raise ValueError(f"No samples to train on in split '{rows.split}' (check the dataset and train_level)")
        self._rows, self._processor, self._n_samples, self._seed = rows, processor, n_samples, seed
        self._epoch = -1
        self._order = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, k: int) -> Encoded:
        return encode(self._processor, self._rows[self.row_index(k)], with_answer=True)

    def row_index(self, k: int) -> int:
        epoch, place = divmod(k, len(self._rows))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))
            self._epoch = epoch
        return int(self._order[place])
