from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsdrive.questions import (
    CONTROLS,
    Question,
    control_of,
    control_path,
    control_question,
    other_scenes,
    read_questions,
    write_questions,
)

FORCED = Question(
    question_id="A#forced:A+remove-lead",
    sample_id="A",
    kind="forced",
    prefix="<REASONING>Nothing is ahead.\u2028</REASONING>\n<PLANNING>",
    about=(("text_of", "A+remove-lead"),),
)


def test_questions_are_read_as_they_were_written(tmp_path: Path) -> None:
    asked = [
        Question(question_id="A#free", sample_id="A", kind="free"),
        FORCED,
        Question(question_id="B#b", sample_id="B", kind="free", images="black", images_of="A"),
    ]
    write_questions(tmp_path / "q.jsonl", asked)
    assert read_questions(tmp_path / "q.jsonl") == asked


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": "white"}, "real or black, got 'white'"),
        ({"about": [1]}, "no question"),
        ({"prefix": "\ud800"}, "surrogates not allowed"),
        ({"id": "A#free"}, "a second question 'A#free'"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    row = FORCED.to_row() | change
    path = tmp_path / "q.jsonl"
    write_questions(path, [Question(question_id="A#free", sample_id="A", kind="free")])
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rf"q.jsonl:2: .*{said}"):
        read_questions(path)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"\xff\xfe", b"[]", b"{}", b'{"id": 1e400}', b"NaN"])
def test_a_file_that_a_stranger_wrote_is_refused_with_its_line(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "q.jsonl").write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=r"q.jsonl:1: "):
        read_questions(tmp_path / "q.jsonl")


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(0, 5))
def test_every_sample_is_lent_the_images_of_another_scenario(of_scenario: list[int], seed: int) -> None:
    scenarios = {f"sample-{k}": f"scene-{one}" for k, one in enumerate(of_scenario)}
    if len(set(of_scenario)) < 2:
        with pytest.raises(ValueError, match="two scenarios or more"):
            other_scenes(scenarios, seed=seed)
        return
    lent = other_scenes(scenarios, seed=seed)
    assert lent.keys() == scenarios.keys()
    assert all(scenarios[lender] != scenarios[sample_id] for sample_id, lender in lent.items())
    lenders = {scenarios[sample_id]: scenarios[lender] for sample_id, lender in lent.items()}
    assert sorted(lenders.values()) == sorted(lenders), "every scenario lends to exactly one"
    assert lent == other_scenes(scenarios, seed=seed)


def test_a_control_changes_one_thing() -> None:
    label = "<REASONING>Follow car-1.</REASONING>\n<PLANNING>[1.00, 0.00]</PLANNING>"
    asked = {name: control_question(name, "A", images_of="B", answer=label) for name in CONTROLS}
    assert {one.question_id for one in asked.values()} == {one.sample_id for one in asked.values()} == {"A"}
    assert {name: (one.images, one.images_of, one.prefix) for name, one in asked.items()} == {
        "none": ("real", None, None),
        "black": ("black", None, None),
        "shuffled": ("real", "B", None),
        "no_text": ("real", None, "<PLANNING>"),
        "oracle_text": ("real", None, "<REASONING>Follow car-1.</REASONING>\n<PLANNING>"),
    }
    bare = control_question("oracle_text", "A", answer="<PLANNING>[1.00, 0.00]</PLANNING>")
    assert bare.prefix == "<PLANNING>", "a label that does not reason says nothing"


def test_a_controls_file_lies_beside_the_models() -> None:
    own = Path("out/predictions.v2.jsonl")
    assert control_path(own, "none") == own
    assert control_path(own, "no_text") == Path("out/predictions.v2.no_text.jsonl")
    for control in CONTROLS:
        assert control_of(control_path(own, control)) == (own, control)
    with pytest.raises(ValueError, match=r"No control 'blak'\. Did you mean 'black'"):
        control_path(own, "blak")


def test_questions_need_no_torch() -> None:
    code = "import sys, nsdrive.questions; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
