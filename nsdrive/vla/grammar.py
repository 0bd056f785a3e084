"""Constrained decoding: whatever the model prefers, its answer parses.

    tables = TokenTables(tokenizer)                                     # once per tokenizer
    grammar = PlanGrammar(tables, ["detailed", "none"])                 # once per batch: the trace level of each row
    model.generate(..., logits_processor=[grammar], max_new_tokens=grammar.max_new_tokens)

The answer is `<PLANNING>` + ten points + `</PLANNING>`, before it `<REASONING>` + free text + `</REASONING>` and a newline
(not at level none). Literals are matched on strings, never forced token by token: a model that has learnt `>Lead` as one
token may use it across the end of `<REASONING>` (token healing). Free text may not hold a `<` but to end itself, and ends
when its budget is spent, so an answer is complete within `max_new_tokens`.

An answer may have begun already (`Begun`): then the grammar starts in the state that its beginning leaves, after
`<PLANNING>` in the plan, in the midst of the reasoning in the reasoning.

An engine with a grammar of its own takes the same as a regular expression (`rest_of_answer`), whose free text has no bound:
`over_budget` says where it has to be ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex
import torch
from transformers import LogitsProcessor

from nsdrive.vla.prompt import N_WAYPOINTS, TASK

OPEN_REASONING, OPEN_PLAN, CLOSE_PLAN = "<REASONING>", "<PLANNING>", "</PLANNING>"
BRIDGE = f"</REASONING>\n{OPEN_PLAN}"
_NUMBER = r"-?(?:0|[1-9][0-9]{0,2})\.[0-9]{2}"  # as prompt.fixed prints it, at most 999.99 m
_POINT = rf"\[{_NUMBER}, {_NUMBER}\]"
_PLAN = regex.compile(rf"{_POINT}(?:, {_POINT}){{{N_WAYPOINTS - 1}}}{CLOSE_PLAN}")
# Tokens of free text before it is ended, by trace level. Chosen by us: room for the longest of our texts and a third more. They
# take up to 349 (brief) of the real Qwen3.5 tokens, and detailed ones are kept under 1,200 (see nsdrive.trace.rounding).
REASONING_BUDGET = {"none": 0, "brief": 512, "detailed": 1600}
_PLAN_CHARACTERS = frozenset("0123456789.,-[] </PLANING>")
_ESCAPED = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}
_LONGEST_POINT = len("[-999.99, -999.99], ")  # in characters, so in tokens at most


@dataclass(frozen=True, kw_only=True)
class Begun:
    """How an answer has begun. prefix: its text so far. unsaid: the end of it that is no token yet, so that the model says it
    again, in tokens that may reach beyond it, as in training. n_tokens: of what is said, which its budget has paid for."""

    prefix: str = ""
    unsaid: str = ""
    n_tokens: int = 0


@dataclass(slots=True)
class _Row:
    """Where one answer of the batch stands. stage: literal, reasoning, plan, end, or free (of any grammar)."""

    stage: str
    literal: str = ""  # what is still to be said of it
    after: str = ""  # the stage after the literal
    budget: int = 0  # tokens of free text left
    plan: str = ""


class TokenTables:
    """What each token of a vocabulary spells, and which tokens may come next in each state; filled in as states occur."""

    def __init__(self, tokenizer: Any) -> None:
        self.end_id = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        ids = list(range(len(tokenizer)))
        self.text: list[str] = tokenizer.batch_decode(
            [[i] for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        special = set(tokenizer.all_special_ids) | {self.end_id}
        # an undecodable piece of a character ends up as U+FFFD; a special token is no text
        self._spoken = [i for i in ids if self.text[i] and i not in special and "\ufffd" not in self.text[i]]
        self._plan_ids = [i for i in self._spoken if _PLAN_CHARACTERS.issuperset(self.text[i])]
        # token -> how many characters of BRIDGE it says, for those that begin it (".</" says two)
        self.bridges = {
            i: len(self.text[i]) - at
            for i in self._spoken
            if (at := self.text[i].find("<")) >= 0 and BRIDGE.startswith(self.text[i][at:])
        }
        self._free = [i for i in self._spoken if "<" not in self.text[i] or i in self.bridges]
        self._cache: dict[tuple[str, str, str], torch.Tensor] = {}

    def allowed(self, row: _Row, device: torch.device) -> torch.Tensor:
        """Token ids that may come next in the state of this row, on `device`."""
        key = self._state(row)
        found = self._cache.get(key)
        if found is None or found.device != device:
            found = self._cache[key] = torch.tensor(self._compute(row), dtype=torch.long, device=device)
        return found

    def _state(self, row: _Row) -> tuple[str, str, str]:
        if row.stage == "plan":  # which digit it was matters only where a number begins: 0 or not
            return "plan", _canonical(row.plan), ""
        return row.stage, row.literal, f"{row.after} {_canonical(row.plan)}"

    def _compute(self, row: _Row) -> list[int]:
        if row.stage == "literal":
            return [i for i in self._spoken if self._goes_on(self.text[i], row)]
        if row.stage == "reasoning":
            return self._free
        if row.stage == "plan":
            return [i for i in self._plan_ids if _PLAN.fullmatch(row.plan + self.text[i], partial=True)]
        return [self.end_id]

    def _goes_on(self, text: str, row: _Row) -> bool:
        if row.literal.startswith(text):
            return True
        if not text.startswith(row.literal):
            return False
        rest = text[len(row.literal) :]
        if row.after == "plan":
            return _PLAN.fullmatch(row.plan + rest, partial=True) is not None
        if row.after == "reasoning":
            return "<" not in rest or BRIDGE.startswith(rest[rest.index("<") :])
        return row.after == "free"  # after an end comes nothing


class PlanGrammar(LogitsProcessor):
    """Lets only tokens through that keep the answer parsable. For greedy decoding or sampling, one use per generate call.

    levels: the trace level of each row of the batch. budget: the most tokens of free text, by level. begun: how each answer
    has begun; None: not at all. constrained=False: any token may come but for what is unsaid. ValueError for a beginning that
    no answer has.
    """

    def __init__(
        self,
        tables: TokenTables,
        levels: Sequence[str],
        budget: Mapping[str, int] = REASONING_BUDGET,
        begun: Sequence[Begun] | None = None,
        *,
        constrained: bool = True,
    ) -> None:
        beginnings = [Begun()] * len(levels) if begun is None else begun
        rows = (
            [_begin(level, budget, one) for level, one in zip(levels, beginnings, strict=True)] if constrained else []
        )
        self._tables, self._length = tables, -1
        self._rows = rows or [_free(one) for one in beginnings]
        self.max_new_tokens = max(
            most_tokens(level, one, budget) for level, one in zip(levels, beginnings, strict=True)
        )

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """input_ids (B, L), prompt included, padded on the left; scores (B, vocabulary)."""
        if len(input_ids) != len(self._rows):
            raise ValueError(f"{len(self._rows)} levels were given for a batch of {len(input_ids)}")
        if self._length >= 0:
            assert input_ids.shape[1] == self._length + 1, "one PlanGrammar serves one generate call, without beams"
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                _advance(self._tables, row, token)
        self._length = input_ids.shape[1]
        kept = torch.full_like(scores, -torch.inf)
        for b, row in enumerate(self._rows):
            if row.stage == "free":
                kept[b] = scores[b]
                continue
            ids = self._tables.allowed(row, scores.device)
            kept[b, ids] = scores[b, ids]
        return kept  # type: ignore[return-value]


def check_begun(level: str, begun: Begun) -> None:
    """ValueError, one line, for a beginning that the grammar cannot follow."""
    _begin(level, REASONING_BUDGET, begun)


def most_tokens(level: str, begun: Begun, budget: Mapping[str, int] = REASONING_BUDGET) -> int:
    """What is left of an answer at the most; of a whole one where none begins so."""
    return _most_tokens(_begin_or_all(level, begun, budget))


def over_budget(
    tables: TokenTables, level: str, begun: Begun, budget: Mapping[str, int], ids: Sequence[int]
) -> int | None:
    """Of tokens that follow a beginning: after how many the reasoning has spent its budget and must end, None: it has not."""
    row = _begin(level, budget, begun)
    for k, token in enumerate(ids):
        stage = row.stage
        if stage in ("plan", "end"):
            return None
        _advance(tables, row, token)
        if stage == "reasoning" and row.budget <= 0 and token not in tables.bridges:
            return k + 1
    return None


def rest_of_answer(level: str, begun: Begun = Begun()) -> str:
    """A regular expression of what may follow a beginning, for engines that decode by one (its free text has no bound, which
    in xgrammar would take 20 s to compile). ValueError for a beginning that no answer has."""
    row = _begin(level, REASONING_BUDGET, begun)
    stage = row.after if row.stage == "literal" else row.stage
    rest = {"reasoning": "[^<]*" + literally(BRIDGE), "plan": "", "end": ""}[stage]
    plan = "" if stage == "end" else _rest_of_plan(row.plan)
    return literally(row.literal) + rest + plan


def literally(text: str) -> str:
    """A regular expression of just this text, escaped only where every dialect asks for it."""
    return "".join(f"\\{letter}" if letter in r"\.^$*+?{}[]|()" else _ESCAPED.get(letter, letter) for letter in text)


def _rest_of_plan(plan: str) -> str:
    """Of ten points and the closing tag, after those letters of them that are there."""
    n_done = plan.count("]")
    tail = plan[plan.rfind("]") + 1 :]
    if n_done == N_WAYPOINTS:
        return literally(CLOSE_PLAN[len(tail) :])
    opening = ", [" if n_done else "["
    inside, _, second = tail[len(opening) :].partition(",")
    if len(tail) < len(opening):
        point = literally(opening[len(tail) :]) + f"{_NUMBER}, {_NUMBER}"
    elif "," not in tail[len(opening) :]:
        point = _rest_of_number(inside) + f", {_NUMBER}"
    elif not second:
        point = f" {_NUMBER}"
    else:
        point = _rest_of_number(second[1:])
    more = N_WAYPOINTS - n_done - 1
    points = rf"(?:, {_POINT}){{{more}}}" if more else ""
    return point + r"\]" + points + literally(CLOSE_PLAN)


def _rest_of_number(begun: str) -> str:
    digits = begun.removeprefix("-")
    whole, dot, cents = digits.partition(".")
    if dot:
        return f"[0-9]{{{2 - len(cents)}}}" if len(cents) < 2 else ""
    if not digits:
        return _NUMBER if not begun else _NUMBER.removeprefix("-?")
    more = 0 if whole == "0" else 3 - len(whole)
    return (f"[0-9]{{0,{more}}}" if more else "") + r"\.[0-9]{2}"


def _advance(tables: TokenTables, row: _Row, token: int) -> None:
    if row.stage in ("end", "free"):
        return
    text = tables.text[token]
    if row.stage == "literal":
        if len(text) < len(row.literal):
            row.literal = row.literal[len(text) :]
            return
        text = text[len(row.literal) :]
        row.stage, row.literal = row.after, ""
        if row.stage == "plan":
            row.plan += text
        elif row.stage == "reasoning" and "<" in text:
            _begin_bridge(row, len(text) - text.index("<"))
    elif row.stage == "plan":
        row.plan += text
    elif row.stage == "reasoning":
        row.budget -= 1
        if token in tables.bridges:
            _begin_bridge(row, tables.bridges[token])
        elif row.budget <= 0:
            _begin_bridge(row, 0)
    if row.stage == "plan" and row.plan.endswith(">"):
        row.stage = "end"


def _begin(level: str, budget: Mapping[str, int], begun: Begun) -> _Row:
    """The state that a beginning leaves, before what is unsaid of it. ValueError where no answer begins so."""
    if level not in TASK:
        raise ValueError(f"No trace level '{level}'. Known: {', '.join(TASK)}")
    row = _after(begun.prefix, level)
    row.budget = max(1, (budget[level] or max(budget.values())) - begun.n_tokens)
    if begun.unsaid:
        if row.stage != "literal":
            row.after, row.stage = row.stage, "literal"
        row.literal = begun.unsaid + row.literal
    return row


def _after(prefix: str, level: str) -> _Row:
    openings = {OPEN_PLAN: "plan", OPEN_REASONING: "reasoning"}
    for opening in (OPEN_PLAN, OPEN_REASONING) if level == "none" else (OPEN_REASONING, OPEN_PLAN):
        if opening != prefix and opening.startswith(prefix):
            return _Row(stage="literal", literal=opening[len(prefix) :], after=openings[opening])
    plan = prefix
    if prefix.startswith(OPEN_REASONING):
        _, mark, more = prefix[len(OPEN_REASONING) :].partition("<")
        if not mark:
            return _Row(stage="reasoning")
        plan = mark + more
        if plan != BRIDGE and BRIDGE.startswith(plan):
            return _Row(stage="literal", literal=BRIDGE[len(plan) :], after="plan")
        plan = plan.removeprefix(BRIDGE.removesuffix(OPEN_PLAN))
    points = plan.removeprefix(OPEN_PLAN)
    if not plan.startswith(OPEN_PLAN) or not _PLAN.fullmatch(points, partial=True):
        raise ValueError(f"no answer begins like this: {prefix[:40]!r}{' and so on' if len(prefix) > 40 else ''}")
    return _Row(stage="end" if points.endswith(">") else "plan", plan=points)


def _free(begun: Begun) -> _Row:
    return _Row(stage="literal", literal=begun.unsaid, after="free") if begun.unsaid else _Row(stage="free")


def _begin_or_all(level: str, begun: Begun, budget: Mapping[str, int]) -> _Row:
    """As `_begin`; a whole answer's beginning where none begins so."""
    try:
        return _begin(level, budget, begun)
    except ValueError:
        return _begin(level, budget, Begun())


def _most_tokens(row: _Row) -> int:
    """What is left of an answer at the most: every literal and the plan letter by letter, and the end mark."""
    stage = row.after or row.stage
    reasoning = row.budget + len(BRIDGE) if stage == "reasoning" else 0
    plan = (N_WAYPOINTS - row.plan.count("]")) * _LONGEST_POINT + len(CLOSE_PLAN) if stage != "end" else 0
    return len(row.literal) + reasoning + plan + 1


def _begin_bridge(row: _Row, n_said: int) -> None:
    row.stage, row.literal, row.after = "literal", BRIDGE[n_said:], "plan"
    if not row.literal:
        row.stage, row.plan = "plan", ""


_DIGITS = str.maketrans("23456789", "11111111")


def _canonical(plan: str) -> str:
    """A plan with the same continuations, of which there are few: its finished points as zeros, its digits as 0 or 1."""
    done, last, tail = plan.rpartition("]")
    points = ", ".join(["[0.00, 0.00]"] * (done.count("]") + bool(last)))
    return points + tail.translate(_DIGITS)
