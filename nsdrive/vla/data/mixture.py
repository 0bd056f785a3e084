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
    """See the module. share: of the second, in (0, 1).

    The second's entries come first in a batch, so that where they are shorter, whole micro-batches are short; with `spread`
    they are spread evenly over it, so that where micro-batches are packed, all of them have as much to do.
    """

    def __init__(
        self,
        first: Entries,
        second: Entries,
        *,
        global_batch: int,
        share: float,
        n_samples: int,
        spread: bool = False,
    ) -> None:
        assert 0.0 < share < 1.0, "co_share is checked with the other settings"
        self._first, self._second, self._n_samples = first, second, n_samples
        self.global_batch, self.share, self.spread = global_batch, share, spread

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, k: int) -> Encoded:
        is_second, place = self.place_of(k)
        return self._second[place] if is_second else self._first[place]

    def place_of(self, k: int) -> tuple[bool, int]:
        """Whether entry k is of the second, and which entry of the first or the second it is."""
        batch, place = divmod(k, self.global_batch)
        before = taken(batch, self.global_batch, self.share)
        n_second = taken(batch + 1, self.global_batch, self.share).second - before.second
        if self.spread:
            earlier, up_to = (p * n_second // self.global_batch for p in (place, place + 1))
        else:
            earlier, up_to = min(place, n_second), min(place + 1, n_second)
        is_second = up_to > earlier
        return is_second, before.second + earlier if is_second else before.first + place - earlier


def taken(steps: int, global_batch: int, share: float) -> Taken:
    """What so many steps take from each."""
    second = steps * global_batch * round(share * PARTS) // PARTS
    return Taken(first=steps * global_batch - second, second=second)
