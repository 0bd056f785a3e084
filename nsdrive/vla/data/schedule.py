"""The order of training: which sample is the k-th, whoever asks for it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nsdrive.vla.data.encoding import Encoded, encode
from nsdrive.vla.data.rows import Row

# global batches, chosen by us: wider pads little less, and mixes the samples less from epoch to epoch
GROUPING_WINDOW = 32


class TrainingRows(Protocol):
    """What is trained on: `rows.Rows` of a dataset's folder, or `shards.PackedRows` of a packed one."""

    @property
    def split(self) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Row: ...

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every index once, in an order that is good to read."""

    def text_bytes(self) -> NDArray[np.int64]:
        """(N,): how long each row's text is."""

    def image_counts(self) -> NDArray[np.int64]:
        """(N,): how many images each row has."""


class Schedule(torch.utils.data.Dataset[Encoded]):
    """The whole training as one sequence of samples: entry k is a pure function of (seed, k), whoever asks for it.

    Every epoch is its own permutation; nothing depends on the number of processes, so that one process and eight see
    the same global batches, and a resumed run goes on where it stopped by its step count alone.

    group_by: a global batch's number of samples. Given, each global batch (entries k * group_by and following) has samples of
    about one length, shortest first, so that little of a micro-batch is padding and no process waits long for another; which
    batch is when stays random. An epoch still has every sample once, and where two epochs share a batch, each gives it its part.
    """

    def __init__(
        self, rows: TrainingRows, processor: Any, *, n_samples: int, seed: int, group_by: int | None = None
    ) -> None:
        if len(rows) == 0:
            raise ValueError(f"No samples to train on in split '{rows.split}' (check the dataset and train_level)")
        self._rows, self._processor, self._n_samples, self._seed = rows, processor, n_samples, seed
        self._group_by = group_by
        self._lengths = None if group_by is None else _likely_lengths(rows, processor)
        self._epoch = -1
        self._order = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, k: int) -> Encoded:
        try:
            return encode(self._processor, self._rows[self.row_index(k)], with_answer=True)
        except (ValueError, OSError) as error:
            raise BadSample(" ".join(str(error).split())) from None

    def row_index(self, k: int) -> int:
        epoch, place = divmod(k, len(self._rows))
        if epoch != self._epoch:
            self._order, self._epoch = self._order_of(epoch), epoch
        return int(self._order[place])

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, epoch])
        order = self._rows.shuffled(rng)
        if self._group_by is not None and self._lengths is not None:
            first, end = epoch * len(order), (epoch + 1) * len(order)
            window = GROUPING_WINDOW * self._group_by
            for start in range(first - first % window, end, window):
                a, b = max(start, first), min(start + window, end)
                order[a - first : b - first] = _grouped(
                    order[a - first : b - first], self._lengths, self._group_by, first=a, rng=rng
                )
        return order


class BadSample(ValueError):
    """A sample that cannot be trained on, in one line with its name.

    A DataLoader makes a worker's exception anew from the text of its traceback: only the last line of that is for the user.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rstrip().rpartition("\n")[2].removeprefix(f"{__name__}.{type(self).__name__}: "))


def _grouped(
    indices: NDArray[np.int64], lengths: NDArray[np.int64], size: int, *, first: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The indices, which are entries first, first + 1, ... of the schedule, so that each global batch has like lengths."""
    n_head = min(-first % size, len(indices))  # of a batch that the epoch before began
    n_tail = min((first + len(indices)) % size, len(indices) - n_head)
    head, body, tail = np.split(indices, [n_head, len(indices) - n_tail])
    batches = body[np.argsort(lengths[body], kind="stable")].reshape(-1, size)
    head, tail = (part[np.argsort(lengths[part], kind="stable")] for part in (head, tail))
    return np.concatenate([head, batches[rng.permutation(len(batches))].reshape(-1), tail])


def _likely_lengths(rows: TrainingRows, processor: Any) -> NDArray[np.int64]:
    """(N,) of what each row is long, in bytes of text; only the order matters, so that no row need be tokenised for it."""
    images = processor.image_processor
    most_tokens = images.size["longest_edge"] / (images.patch_size * images.merge_size) ** 2
    bytes_per_token = 2.5  # of our traces with Qwen's tokenizer and with the tiny one, where each digit is a token
    return rows.text_bytes() + (rows.image_counts() * most_tokens * bytes_per_token).astype(np.int64)
