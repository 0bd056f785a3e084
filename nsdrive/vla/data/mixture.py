"""Two data sets in one training: a fixed share of every global batch is of the second.

    mixed = Mixture(drives, questions, global_batch=32, share=0.25, n_samples=3200)[k]     # as of a Schedule
    taken(100, 32, 0.25)                                                # Taken(first=2400, second=800): of 100 steps

Which entry is of which is a pure function of k and the global batch, so it is the same for any number of processes, and a
resumed run goes on where it stopped. Where the share makes no whole number of a batch's entries, batches differ by one.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from nsdrive.vla.data.encoding import Encoded

PARTS = 1_000_000  # a share is counted in these, so that sums are exact


class Entries(Protocol):
    """What a Schedule is here: entry k of a training."""

    def __getitem__(self, k: int) -> Encoded: ...


class Taken(NamedTuple):
    """How many entries come from the first and from the second."""

    first: int
    second: int


class Mixture(torch.utils.data.Dataset[Encoded]):
    """See the module. share: of the second, in [0, 1)."""

    def __init__(self, first: Entries, second: Entries, *, global_batch: int, share: float, n_samples: int) -> None:
        check_share(share)
        self._first, self._second, self._n_samples = first, second, n_samples
        self.global_batch, self.share = global_batch, share

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, k: int) -> Encoded:
        is_second, place = self.place_of(k)
        return self._second[place] if is_second else self._first[place]

    def place_of(self, k: int) -> tuple[bool, int]:
        """Whether entry k is of the second, and which of that one's entries it is. Within a batch they are spread evenly,
        so that no process gets them all."""
        batch, place = divmod(k, self.global_batch)
        before = taken(batch, self.global_batch, self.share)
        n_second = taken(batch + 1, self.global_batch, self.share).second - before.second
        earlier, up_to = (p * n_second // self.global_batch for p in (place, place + 1))
        is_second = up_to > earlier
        return is_second, before.second + earlier if is_second else before.first + place - earlier


def taken(steps: int, global_batch: int, share: float) -> Taken:
    """What so many steps take from each."""
    second = steps * global_batch * round(share * PARTS) // PARTS
    return Taken(first=steps * global_batch - second, second=second)


def check_share(share: float) -> None:
    if not 0.0 <= share < 1.0:
        raise ValueError(f"co_share must be at least 0 and below 1, the share of co_data in every batch; got {share}")
