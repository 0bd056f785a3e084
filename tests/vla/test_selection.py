"""Of several answers the one is taken whose waypoints do what its own text says; and answers are drawn by their own seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import car, scenario, straight_map

from nsdrive.dataset import open_dataset
from nsdrive.questions import Question
from nsdrive.trace.build import build_trace
from nsdrive.trace.replay import replay
from nsdrive.trace.text import render
from nsdrive.vla.answering import ModelAnswerer, Samples
from nsdrive.vla.data.encoding import Encoded
from nsdrive.vla.inference.decoding import Decoding
from nsdrive.vla.inference.drawing import Drawing
from nsdrive.vla.inference.engine import Said, Texts
from nsdrive.vla.inference.selection import best_of, replay_error_m
from nsdrive.vla.model import load_processor
from nsdrive.vla.prompt import parse_answer, render_answer
from nsdrive.world.simulate import simulate
from planners.idm import IdmPlanner


@pytest.fixture(scope="module")
def says() -> dict[str, Any]:
    """A planner's texts, and by how much one drives on where its text brakes."""
    rollout = simulate(scenario(straight_map(300.0), [car("ahead", 40.0, speed_mps=4.0)]), IdmPlanner())
    trace, _ = build_trace(rollout, 0)
    return {"brief": render(trace, "brief"), "detailed": render(trace, "detailed"), "m": replay(trace).progress_m[1:]}


def answer(reasoning: str, along_m: Any, *, likelihood: float | None = None) -> Said:
    points = np.column_stack([along_m, np.zeros(10)])
    return Said(text=render_answer(reasoning, points), n_tokens=9, log_likelihood=likelihood)


@pytest.mark.parametrize("level", ["brief", "detailed"])
def test_the_answer_that_does_what_it_says_is_taken_however_likely_another_is(says: dict[str, Any], level: str) -> None:
    true = answer(says[level], says["m"], likelihood=-300.0)
    liar = answer(says[level], says["m"] + 0.3 * np.arange(1, 11), likelihood=-1.0)
    chosen = best_of([liar, true, liar])
    assert chosen.index == 1
    errors = [one.replay_error_m for one in chosen.candidates]
    assert errors[1] == pytest.approx(0.0, abs=0.01)
    assert errors[0] == pytest.approx(0.3 * 5.5, abs=0.02)


def test_of_equally_true_answers_the_likelier_is_taken_and_of_these_the_first(says: dict[str, Any]) -> None:
    likely, unlikely = (answer(says["brief"], says["m"], likelihood=value) for value in (-2.0, -3.0))
    assert best_of([unlikely, likely, likely]).index == 1
    assert best_of([answer(says["brief"], says["m"])] * 3).index == 0


def test_a_lie_is_better_than_a_text_nobody_can_read_and_that_than_no_waypoints(says: dict[str, Any]) -> None:
    liar = answer(says["brief"], says["m"] + 5.0, likelihood=-900.0)
    babble = answer("Lead vehicle ahead, so I brake.", says["m"], likelihood=-2.0)
    silent = Said(text="I would rather not.", log_likelihood=-1.0)
    none = answer("", says["m"], likelihood=-2.0)
    assert best_of([silent, babble, liar]).index == 2
    assert best_of([silent, babble]).index == 1
    assert best_of([silent, none]).index == 1
    assert [one.replay_error_m for one in best_of([silent, babble, none]).candidates] == [None, None, None]


def test_a_text_that_states_no_motion_has_no_replay_error() -> None:
    assert replay_error_m(parse_answer("<REASONING>1e999</REASONING>\n<PLANNING>[1.00, 0.00]</PLANNING>")) is None


class Says:
    """An engine whose answers are known: by question and draw, in the order of asking."""

    clock, queues, device_type = True, False, "cpu"

    def __init__(self, model: Path, answers: Sequence[Said]) -> None:
        self.processor, self.answers = load_processor(model), list(answers)
        self.seeds: list[int] = []
        self.sizes: list[int] = []

    def answer(self, questions: Sequence[Encoded], levels: Sequence[str], **how: Any) -> Texts:
        self.seeds += how["seeds"]
        self.sizes.append(len(questions))
        said, self.answers = self.answers[: len(questions)], self.answers[len(questions) :]
        return Texts(said=tuple(said))

    def waypoints(self, questions: Sequence[Encoded]) -> Any:
        raise AssertionError("nobody asks for it")


def test_a_row_holds_the_best_answer_and_what_the_others_were(model: Path, dataset: Path, says: dict[str, Any]) -> None:
    true, liar = answer(says["brief"], says["m"], likelihood=-7.0), answer(says["brief"], says["m"] + 2.0)
    engine = Says(model, [liar, liar, true, true, liar, liar])
    asked = [Question(question_id=f"q{k}", sample_id=f"test-{k}", kind="free") for k in range(2)]
    samples = Samples(open_dataset(dataset), ["test"])
    answering = ModelAnswerer(engine, samples, batch_size=2, how=Decoding(best_of=3, seed=3))
    rows = [one.to_row() for one in answering(asked)]
    assert [row["text"] for row in rows] == [true.text, true.text]
    assert [row["best_of"]["chosen"] for row in rows] == [2, 0]
    lie, truth = (rows[0]["best_of"]["candidates"][k] for k in (0, 2))
    assert (truth["log_likelihood"], truth["n_tokens"]) == (-7.0, 9)
    assert truth["replay_error_m"] < 0.02 < lie["replay_error_m"]
    assert json.loads(json.dumps(rows)) == rows
    assert engine.sizes == [2, 2, 2], "no more sequences at once than --batch-size allows"
    assert len(set(engine.seeds)) == 6
    assert answering.tally.n_tokens == 6 * 9


def test_an_answers_seed_is_its_own_whatever_it_is_asked_with() -> None:
    how = Decoding(best_of=2, seed=1)
    assert how.seed_of("a", 0) == Decoding(best_of=9, seed=1).seed_of("a", 0)
    assert len({how.seed_of(name, k) for name in ("a", "b") for k in (0, 1)} | {Decoding().seed_of("a", 0)}) == 5


def drawn(seeds: Sequence[int], *, temperature: float = 1.0, n_steps: int = 400) -> np.ndarray:
    """(n_steps, rows) tokens of three, of probability 0.7, 0.3 and 0."""
    scores = torch.tensor([[0.7, 0.3, 0.0]]).log().repeat(len(seeds), 1)
    drawing = Drawing(end_id=9, temperature=temperature, seeds=seeds)
    return np.array([drawing(None, scores).argmax(dim=-1).tolist() for _ in range(n_steps)])


def test_tokens_are_drawn_as_often_as_they_are_likely_and_never_against_the_grammar() -> None:
    tokens = drawn(range(5))
    assert (tokens == 0).mean() == pytest.approx(0.7, abs=0.03)
    assert (tokens == 2).sum() == 0
    hot = 0.7**0.5 / (0.7**0.5 + 0.3**0.5)
    assert (drawn(range(5), temperature=2.0) == 0).mean() == pytest.approx(hot, abs=0.03)


def test_what_a_row_draws_does_not_depend_on_the_rows_beside_it() -> None:
    assert (drawn([1, 2, 3])[:, 1] == drawn([2])[:, 0]).all()
    assert (drawn([1])[:, 0] != drawn([2])[:, 0]).any()


def test_a_likelihood_is_that_of_the_drawn_tokens_up_to_the_end_mark() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).log()
    drawing = Drawing(end_id=2, temperature=1.0, seeds=[0, 1])
    for _ in range(3):
        drawing(None, scores)
    assert drawing.log_likelihoods == [pytest.approx(3 * np.log(0.5), abs=1e-3), 0.0]
    certain = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]).log()
    drawing(None, certain)
    assert drawing.log_likelihoods[1] == 0.0, "what comes after the end is not said"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"best_of": 0}, "--best-of must be at least 1"),
        ({"best_of": 4, "temperature": 0.0}, "the same answer 4 times"),
        ({"temperature": -1.0}, "--temperature must be 0 to 10"),
        ({"temperature": float("nan")}, "--temperature must be 0 to 10"),
        ({"mode": "head", "best_of": 2}, "--mode head draws nothing"),
        ({"mode": "plan", "best_of": 2}, "--mode plan has none"),
        ({"mode": "haed"}, "Did you mean 'head'"),
        ({"max_reasoning_tokens": 0}, "at least 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(how: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Decoding(**how)
