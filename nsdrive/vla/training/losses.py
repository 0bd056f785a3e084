"""What a step is trained on: the answer's tokens, digits by what they are worth, and the trajectory head.

    objective = Objective(tokenizer, place_weights=True, number_token_loss=0.3, reasoning_weight=1.0, co_weight=1.0)
    totals = objective.totals(batch)                     # of every process and micro-batch of a step, summed
    parts = objective.parts(logits, head_loss, batch)    # of one micro-batch
    loss = objective.loss(parts, totals)

Every part is a sum over tokens or samples, divided by what all processes together have of them: one process and eight
give the same loss for one global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad

from nsdrive.vla.data.encoding import IGNORED, PERCEIVING, PLANNING, REASONING
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.trajectory_head import TrajectoryHead, read_head

# Weight of a digit's cross-entropy, hundredths to hundreds; chosen by us: a wrong metre costs more than a wrong centimetre,
# and the last digit is mostly noise.
_PLACE_WEIGHTS = (0.25, 1.0, 2.0, 4.0, 8.0)
_NO_DIGIT = 99
_LONGEST_RUN = 4  # digits on a side of the point that are told apart


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Of a global batch: what its sums are divided by."""

    weight: float  # of the answer's tokens
    digit_weight: float  # of those that are digits
    reasoning: float  # tokens
    planning: float
    waypoints: float  # samples that have them

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(Totals)})

    def over(self, sum_over_processes: Callable[[list[float]], list[float]]) -> Totals:
        names = [each.name for each in fields(Totals)]
        sums = sum_over_processes([getattr(self, name) for name in names])
        return Totals(**dict(zip(names, sums, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Of a micro-batch: sums. answer: weighted cross-entropy; digits: weighted distance; the others as they are."""

    answer: torch.Tensor
    digits: torch.Tensor | None
    head: torch.Tensor | None
    reasoning: torch.Tensor
    planning: torch.Tensor


class Objective:
    """See the module. tokenizer: with single-digit tokens, where place weights or the number-token loss are wanted."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        place_weights: bool = False,
        number_token_loss: float = 0.0,
        reasoning_weight: float = 1.0,
        head_weight: float = 1.0,
        co_weight: float = 1.0,
    ) -> None:
        self._place_weights, self._number_token_loss = place_weights, number_token_loss
        self._reasoning_weight, self._head_weight, self._co_weight = reasoning_weight, head_weight, co_weight
        self._digits = DigitTokens(tokenizer) if place_weights or number_token_loss else None

    def totals(self, batch: Mapping[str, Any]) -> Totals:
        targets, parts = targets_of(batch), parts_of(batch)
        weights, places = self._weights(batch, targets, parts)
        known = torch.isfinite(batch["waypoints"]).flatten(1).all(dim=1)
        is_digit = torch.zeros_like(weights) if places is None else (places != _NO_DIGIT).float()
        return Totals(
            weight=float(weights.sum()),
            digit_weight=float((weights * is_digit).sum()),
            reasoning=float((parts == REASONING).sum()),
            planning=float((parts == PLANNING).sum()),
            waypoints=float(known.sum()),
        )

    def parts(self, logits: torch.Tensor, head_loss: torch.Tensor | None, batch: Mapping[str, Any]) -> Parts:
        """logits (..., V): of the answer's tokens alone, row after row."""
        all_targets, all_parts = targets_of(batch), parts_of(batch)
        is_answer = all_targets != IGNORED
        weights, places = self._weights(batch, all_targets, all_parts)
        targets, parts = all_targets[is_answer], all_parts[is_answer]
        rows = logits.reshape(len(targets), -1).float()
        entropy = cross_entropy(rows, targets, reduction="none")
        digits = None
        if self._number_token_loss and self._digits is not None and places is not None:
            is_digit = places[is_answer] != _NO_DIGIT
            distance = self._digits.distance(rows[is_digit], targets[is_digit])
            digits = (distance * weights[is_answer][is_digit]).sum()
        said = entropy.detach()
        return Parts(
            answer=(entropy * weights[is_answer]).sum(),
            digits=digits,
            head=head_loss,
            reasoning=said[parts == REASONING].sum(),
            planning=said[parts == PLANNING].sum(),
        )

    def loss(self, parts: Parts, totals: Totals) -> torch.Tensor:
        """A micro-batch's share of the step's loss."""
        loss = parts.answer / max(totals.weight, 1e-9)
        if parts.digits is not None:
            loss = loss + self._number_token_loss * parts.digits / max(totals.digit_weight, 1e-9)
        if parts.head is not None:
            loss = loss + self._head_weight * parts.head / max(totals.waypoints, 1.0)
        return loss

    def _weights(
        self, batch: Mapping[str, Any], targets: torch.Tensor, parts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L) weights of the tokens to be said, 0 elsewhere, and their decimal places where those matter."""
        weights = (targets != IGNORED).float()
        if self._reasoning_weight != 1.0:
            weights = torch.where(parts == REASONING, self._reasoning_weight * weights, weights)
        if self._co_weight != 1.0:
            weights = torch.where(parts == PERCEIVING, self._co_weight * weights, weights)
        if self._digits is None:
            return weights, None
        places = pad(self._digits.places(batch["input_ids"])[:, 1:], (0, 1), value=_NO_DIGIT)
        places = torch.where(targets == IGNORED, _NO_DIGIT, places)
        if self._place_weights:
            worth = torch.tensor(_PLACE_WEIGHTS, device=weights.device)[places.clamp(-2, 2) + 2]
            weights = torch.where(places == _NO_DIGIT, weights, weights * worth)
        return weights, places


def objective_of(config: TrainConfig, tokenizer: Any) -> Objective:
    return Objective(
        tokenizer,
        place_weights=config.place_weights,
        number_token_loss=config.number_token_loss,
        reasoning_weight=config.reasoning_weight,
        head_weight=config.head_weight,
        co_weight=config.co_weight,
    )


class DigitTokens:
    """The ten digit tokens of a tokenizer. ValueError for one that writes several digits as one token."""

    def __init__(self, tokenizer: Any) -> None:
        ids = tokenizer("0123456789", add_special_tokens=False)["input_ids"]
        if len(ids) != 10:
            raise ValueError(
                "place_weights and number_token_loss need a tokenizer with a token for each digit, as Qwen's is: "
                f"this one writes 0123456789 as {len(ids)} tokens"
            )
        self._ids, self._point = torch.tensor(ids), int(tokenizer.convert_tokens_to_ids("."))
        self._values = torch.arange(10.0)

    def places(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, L): 0 for a digit of ones, 1 of tens, -1 of tenths, ...; _NO_DIGIT for other tokens."""
        is_digit = torch.isin(input_ids, self._ids.to(input_ids.device))
        is_point = input_ids == self._point
        after, before = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
        is_decimal = torch.zeros_like(is_digit)
        for _ in range(_LONGEST_RUN):  # each pass looks one token further
            after = torch.where(_from_right(is_digit), 1 + _from_right(after), 0)
            before = torch.where(_from_left(is_digit), 1 + _from_left(before), 0)
            is_decimal = _from_left(is_point) | (_from_left(is_digit) & _from_left(is_decimal))
        return torch.where(is_digit, torch.where(is_decimal, -1 - before, after), _NO_DIGIT)

    def distance(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(N,): how far, in digits, the digits that might be said are from the one to be said, on average.

        The Wasserstein distance of the number token loss (2411.02083, eq. 3), each digit being a number of its own.
        """
        ids, values = self._ids.to(logits.device), self._values.to(logits.device)
        said = logits[:, ids].softmax(dim=-1)
        true = (targets[:, None] == ids).float() @ values
        return (said * (values[None] - true[:, None]).abs()).sum(dim=-1)


@contextmanager
def reading_head(model: Any, head: TrajectoryHead | None, batch: Mapping[str, Any]) -> Iterator[list[torch.Tensor]]:
    """While the model's forward runs, the head reads the last hidden states; its summed loss is put into the list.

    Inside of the forward, because there DDP and DeepSpeed look after the weights of whatever is called.
    """
    found: list[torch.Tensor] = []
    if head is None:
        yield found
        return

    def read(_module: Any, _inputs: Any, output: Any) -> None:
        found.append(read_head(head, output.last_hidden_state, batch, learn=True))

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    handle = inner.model.register_forward_hook(read)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def only_rows(model: Any, rows: torch.Tensor) -> Iterator[None]:
    """While the model's forward runs, logits are computed for the chosen tokens alone, (N, V). rows: (B, L) bool, N of them true.

    As `logits_to_keep` does in transformers since 5.21, which knew no choice by sample before.
    """
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0][rows],))
    try:
        yield
    finally:
        handle.remove()


def targets_of(batch: Mapping[str, Any]) -> torch.Tensor:
    """(B, L): the token that each token is to be followed by; IGNORED where that is not trained."""
    return pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)


def parts_of(batch: Mapping[str, Any]) -> torch.Tensor:
    """(B, L): the part that the followed-by token belongs to."""
    return pad(batch["parts"][:, 1:], (0, 1), value=0)


def _from_right(x: torch.Tensor) -> torch.Tensor:
    return pad(x[:, 1:], (0, 1))


def _from_left(x: torch.Tensor) -> torch.Tensor:
    return pad(x[:, :-1], (1, 0))
