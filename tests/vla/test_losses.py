"""What a step is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from nsdrive.vla.data.encoding import IGNORED, PLANNING, REASONING
from nsdrive.vla.model import load_processor
from nsdrive.vla.training.losses import DigitTokens, Objective, targets_of


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Any:
    return load_processor(tiny_folder).tokenizer


def batch_of(tokenizer: Any, *, reasoning: str, plan: str) -> dict[str, Any]:
    """One row: a prompt of one token, then the answer, all of it trained."""
    said = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", reasoning, plan)]
    kinds = (0, REASONING, PLANNING)
    parts = [kind for kind, ids in zip(kinds, said, strict=True) for _ in ids]
    ids = [one for each in said for one in each]
    labels = [IGNORED if part == 0 else one for one, part in zip(ids, parts, strict=True)]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "parts": torch.tensor([parts], dtype=torch.int8),
        "waypoints": torch.full((1, 10, 2), torch.nan),
    }


def logits_of(batch: dict[str, Any], vocabulary: int, seed: int = 0) -> torch.Tensor:
    n_said = int((targets_of(batch) != IGNORED).sum())
    return torch.randn(n_said, vocabulary, generator=torch.Generator().manual_seed(seed))


def loss_of(objective: Objective, logits: torch.Tensor, batch: dict[str, Any]) -> float:
    return float(objective.loss(objective.parts(logits, None, batch), objective.totals(batch)))


def test_without_options_it_is_the_mean_cross_entropy_of_the_answer(tokenizer: Any) -> None:
    batch = batch_of(tokenizer, reasoning="stop 3.5", plan="[1.25, -0.50]")
    logits = logits_of(batch, len(tokenizer))
    targets = targets_of(batch)
    expected = cross_entropy(logits, targets[targets != IGNORED])
    assert loss_of(Objective(tokenizer), logits, batch) == pytest.approx(float(expected), abs=1e-5)


def test_every_digit_knows_its_decimal_place(tokenizer: Any) -> None:
    text = "[123.45, -6.7] in 80 m"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    places = DigitTokens(tokenizer).places(torch.tensor([ids]))[0].tolist()
    found = [place for place, one in zip(places, ids, strict=True) if tokenizer.decode([one]).strip().isdigit()]
    assert found == [2, 1, 0, -1, -2, 0, -1, 1, 0]


def loss_of_a_mistake(objective: Objective, tokenizer: Any, said: str, true: str) -> float:
    """The model is sure of the text `said`, where `true` is meant; they differ in digits only."""
    batch, other = (batch_of(tokenizer, reasoning="go", plan=plan) for plan in (true, said))
    targets = targets_of(other)
    sure = torch.nn.functional.one_hot(targets[targets != IGNORED], len(tokenizer)).float() * 12.0
    return loss_of(objective, sure, batch)


def test_with_place_weights_a_wrong_metre_costs_more_than_a_wrong_centimetre(tokenizer: Any) -> None:
    objective = Objective(tokenizer, place_weights=True)
    metre = loss_of_a_mistake(objective, tokenizer, "[13.45, 0.00]", "[12.45, 0.00]")
    centimetre = loss_of_a_mistake(objective, tokenizer, "[12.46, 0.00]", "[12.45, 0.00]")
    assert metre > 5 * centimetre > 0


def test_with_the_number_token_loss_a_farther_digit_costs_more(tokenizer: Any) -> None:
    for objective, differs in ((Objective(tokenizer), False), (Objective(tokenizer, number_token_loss=0.3), True)):
        near = loss_of_a_mistake(objective, tokenizer, "[3.00, 0.00]", "[2.00, 0.00]")
        far = loss_of_a_mistake(objective, tokenizer, "[9.00, 0.00]", "[2.00, 0.00]")
        assert (far > near + 0.01) is differs


def test_reasoning_can_weigh_less_than_the_plan(tokenizer: Any) -> None:
    batch = batch_of(tokenizer, reasoning="slow down now", plan="[1.00, 0.00]")
    n_reasoning = int((batch["parts"] == REASONING).sum())
    logits = logits_of(batch, len(tokenizer))
    worse = logits.clone()
    worse[:n_reasoning] *= 3.0
    silent = Objective(tokenizer, reasoning_weight=0.0)
    assert loss_of(silent, worse, batch) == pytest.approx(loss_of(silent, logits, batch))
    assert loss_of(Objective(tokenizer), worse, batch) != pytest.approx(loss_of(Objective(tokenizer), logits, batch))


def test_the_parts_of_a_split_batch_add_up_to_those_of_the_whole(tokenizer: Any) -> None:
    """As over processes: each has its share, the totals are of all."""
    objective = Objective(tokenizer, place_weights=True, number_token_loss=0.3, head_weight=2.0)
    both = [
        batch_of(tokenizer, reasoning="stop", plan="[1.25, 3.00]"),
        batch_of(tokenizer, reasoning="follow the lead 12.5 m", plan="[1.00, 0.10], [22.75, 1.00]"),
    ]
    both[0]["waypoints"] = torch.zeros(1, 10, 2)
    logits = [logits_of(batch, len(tokenizer), seed) for seed, batch in enumerate(both)]
    heads = [torch.tensor(3.0), torch.tensor(0.0)]
    totals = [objective.totals(batch) for batch in both]
    whole = totals[0] + totals[1]
    assert whole.waypoints == 1.0
    parts = [objective.parts(*each) for each in zip(logits, heads, both, strict=True)]
    shares = sum(float(objective.loss(part, whole)) for part in parts)
    answer = sum(float(part.answer) for part in parts) / whole.weight
    digits = sum(float(part.digits) for part in parts if part.digits is not None) / whole.digit_weight
    assert shares == pytest.approx(answer + 0.3 * digits + 2.0 * 3.0, abs=1e-4)


def test_a_tokenizer_that_joins_digits_is_refused_in_one_line() -> None:
    class Joins:
        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [7, 8]}

    with pytest.raises(ValueError, match="a token for each digit"):
        Objective(Joins(), place_weights=True)
