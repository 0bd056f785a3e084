"""The vLLM engine asks what training taught, and what comes back is read as the other engine's: on a stand-in for vLLM."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import torch

from nsdrive.dataset import Dataset, open_dataset
from nsdrive.questions import Question
from nsdrive.vla.answering import ModelAnswerer, Samples
from nsdrive.vla.data.encoding import encode
from nsdrive.vla.data.images import image_patches
from nsdrive.vla.infer import predict
from nsdrive.vla.inference.decoding import Decoding
from nsdrive.vla.inference.engine import load_engine
from nsdrive.vla.inference.vllm_engine import VllmEngine, pictures

PLAN = f"{', '.join(['[1.00, -0.25]'] * 10)}</PLANNING>"
ANSWER = f"<REASONING>Keep 4.0 m/s.</REASONING>\n<PLANNING>{PLAN}"
WHOLE = (ANSWER, f"<PLANNING>{PLAN}")


@pytest.fixture
def opened(dataset: Path) -> Dataset:
    return open_dataset(dataset)


def question(name: str, *, sample: str = "test-0", **fields: Any) -> Question:
    return Question(question_id=name, sample_id=sample, kind="free", **fields)


def tokenizer_of(model: Path) -> Any:
    from nsdrive.vla.model import load_processor

    return load_processor(model).tokenizer


class Says:
    """A model that says one of its texts, from wherever that is asked for."""

    def __init__(self, model: Path, *texts: str) -> None:
        self.tokenizer, self.texts = tokenizer_of(model), texts or WHOLE

    def __call__(self, prompt: dict[str, Any], parameters: fake_vllm.SamplingParams) -> list[int]:
        asked = self.tokenizer.decode(prompt["prompt_token_ids"]).rpartition("</think>\n\n")[2]
        text = next(one for one in self.texts if one.startswith(asked))
        return [*self.tokenizer(text[len(asked) :], add_special_tokens=False)["input_ids"], *parameters.stop_token_ids]


def asking(engine: Any, dataset: Dataset, **how: Any) -> ModelAnswerer:
    return ModelAnswerer(engine, Samples(dataset, ["test"]), batch_size=64, how=Decoding(**how))


def test_the_model_is_loaded_as_it_was_trained_and_shared_prompts_are_computed_once(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = fake_vllm.install(monkeypatch, Says(model))
    load_engine(model, engine="vllm", tensor_parallel=2, batch_size=32)
    asked = recorded.made
    assert asked["model"] == str(model)
    assert asked["mm_processor_kwargs"] == {"size": {"shortest_edge": 1024, "longest_edge": 2048}}
    assert asked["limit_mm_per_prompt"] == {"image": 8, "video": 0}
    assert (asked["dtype"], asked["tensor_parallel_size"], asked["max_num_seqs"]) == ("bfloat16", 2, 32)
    assert asked["enable_prefix_caching"] is True
    assert "enable_lora" not in asked
    assert asked["max_model_len"] <= 16384, "no longer than the model can"


def test_it_is_asked_the_prompts_tokens_with_one_mark_for_each_picture_and_the_pictures_of_training(
    model: Path, opened: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = fake_vllm.install(monkeypatch, Says(model))
    engine = load_engine(model, engine="vllm")
    processor = engine.processor
    (answer,) = asking(engine, opened)([question("q")])
    assert (answer.error, answer.text) == (None, ANSWER)
    encoded = encode(processor, Samples(opened, ["test"]).row("test-0"), with_answer=False)
    (((prompt,), (parameters,), lora),) = recorded.calls
    marks = [k for k, token in enumerate(prompt["prompt_token_ids"]) if token == processor.image_token_id]
    assert len(marks) == 3
    assert [t for t in prompt["prompt_token_ids"] if t != processor.image_token_id] == [
        t for t in encoded.input_ids.tolist() if t != processor.image_token_id
    ]
    again = [image_patches(image, processor.image_processor) for image in prompt["multi_modal_data"]["image"]]
    assert torch.cat([patches for patches, _ in again]).equal(encoded.patches)
    assert [list(grid) for _, grid in again] == encoded.grid.tolist()
    assert parameters.temperature == 0.0
    assert re.fullmatch(parameters.structured_outputs.regex, ANSWER)
    assert lora is None


def test_pictures_survive_the_way_through_patches(model: Path, opened: Dataset) -> None:
    from nsdrive.vla.model import load_processor

    processor = load_processor(model, min_pixels=1024, max_pixels=64 * 64 * 4)
    encoded = encode(processor, Samples(opened, ["test"]).row("test-1"), with_answer=False)
    images = pictures(encoded, processor.image_processor)
    assert [[image.height // 16, image.width // 16] for image in images] == encoded.grid[:, 1:].tolist()
    again = torch.cat([image_patches(image, processor.image_processor)[0] for image in images])
    assert again.equal(encoded.patches)


def test_an_answer_that_has_begun_is_gone_on_with_from_its_last_whole_word(
    model: Path, opened: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = fake_vllm.install(monkeypatch, Says(model))
    answer = asking(load_engine(model, engine="vllm"), opened)
    beginnings = ["<PLANNING>", "<REASONING>Keep 4.0 m", f"<PLANNING>{9 * '[1.00, -0.25], '}[1.", ANSWER]
    told = list(answer([question(f"q{k}", prefix=one) for k, one in enumerate(beginnings)]))
    for one, prefix in zip(told, beginnings, strict=True):
        assert one.error is None, one
        assert one.text.startswith(prefix)
        assert one.text.count("<PLANNING>") == 1
    (bad,) = answer([question("bad", prefix="I think")])
    assert "no answer begins like this" in str(bad.error)
    for prompt, parameters in [pair for call in recorded.calls for pair in zip(*call[:2], strict=True)]:
        said = answer.driver.processor.tokenizer.decode(prompt["prompt_token_ids"]).rpartition("</think>\n\n")[2]
        whole = next(one for one in WHOLE if one.startswith(said))
        assert re.fullmatch(parameters.structured_outputs.regex, whole[len(said) :]), said


def test_reasoning_beyond_its_budget_is_ended_there_and_the_plan_asked_for(
    model: Path, opened: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "<REASONING>" + "go on " * 40
    tokenizer = tokenizer_of(model)

    def say(prompt: dict[str, Any], parameters: fake_vllm.SamplingParams) -> list[int]:
        regex = parameters.structured_outputs.regex
        text = long if regex.startswith("<REASONING>") else f"</REASONING>\n<PLANNING>{PLAN}"
        assert re.match(regex, text) or text == long
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], *parameters.stop_token_ids]

    recorded = fake_vllm.install(monkeypatch, say)
    answer = asking(load_engine(model, engine="vllm"), opened, max_reasoning_tokens=6)
    (one,) = answer([question("q")])
    assert one.error is None
    reasoning = one.text.partition("</REASONING>")[0]
    assert long.startswith(reasoning)
    assert 6 <= len(tokenizer(reasoning)["input_ids"]) <= 12, "six tokens after those of the tag"
    assert one.text.endswith(PLAN)
    first, second = recorded.calls
    assert second[0][0]["prompt_token_ids"][: len(first[0][0]["prompt_token_ids"])] == first[0][0]["prompt_token_ids"]
    assert second[0][0]["multi_modal_data"]["image"] == first[0][0]["multi_modal_data"]["image"]
    assert answer.tally.n_tokens > len(tokenizer(one.text)["input_ids"]), "what was thrown away was generated, too"


def test_unconstrained_anything_may_follow(model: Path, opened: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = fake_vllm.install(monkeypatch, Says(model, "I think so."))
    answer = asking(load_engine(model, engine="vllm"), opened, constrained=False)
    plain, begun = answer([question("a"), question("b", prefix="I think")])
    assert plain.text == begun.text == "I think so."
    assert "0 PLANNING blocks" in str(plain.error)
    (_, (free, forced), _) = recorded.calls[0]
    assert free.structured_outputs is None
    assert re.fullmatch(forced.structured_outputs.regex, " think so,\nwhatever <b>")


def test_several_answers_are_drawn_each_by_its_own_seed(
    model: Path, opened: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = fake_vllm.install(monkeypatch, Says(model))
    answer = asking(load_engine(model, engine="vllm"), opened, best_of=3, seed=5)
    rows = [one.to_row() for one in answer([question("a"), question("b", sample="test-1")])]
    ((prompts, parameters, _),) = recorded.calls
    assert len(prompts) == 6
    assert prompts[0]["prompt_token_ids"] == prompts[2]["prompt_token_ids"]
    assert len({one.seed for one in parameters}) == 6
    assert {one.temperature for one in parameters} == {0.7}
    candidates = rows[0]["best_of"]["candidates"]
    assert len(candidates) == 3
    assert candidates[0]["log_likelihood"] == -0.5 * candidates[0]["n_tokens"]


def test_an_adapter_is_loaded_beside_its_base(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(model, tmp_path / "base")
    adapter = tmp_path / "model"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere/base", "r": 20}))
    recorded = fake_vllm.install(monkeypatch, Says(model))
    engine = load_engine(adapter, engine="vllm")
    assert recorded.made["model"] == str(tmp_path / "base")
    assert (recorded.made["enable_lora"], recorded.made["max_lora_rank"]) == (True, 32)
    assert isinstance(engine, VllmEngine)
    assert engine.lora.lora_path == str(adapter)


def test_a_predictions_file_is_made_with_it_and_says_so(
    model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch, Says(model))
    done = predict(model, dataset=dataset, out=tmp_path / "p.jsonl", engine="vllm")
    assert (done.n, done.n_errors, done.reasoning_share_by) == (5, 0, "tokens")
    assert done.reasoning_share is not None
    assert 0.0 < done.reasoning_share < 0.5
    assert "of the tokens in reasoning" in str(done)
    with pytest.raises(ValueError, match=r"other settings \(.*engine: 'vllm' -> 'transformers'"):
        predict(model, dataset=dataset, out=tmp_path / "p.jsonl", resume=True)


def test_without_vllm_one_line_says_how_to_get_it(
    model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--engine vllm needs vLLM, in an environment of its own .*pip install vllm"):
        predict(model, dataset=dataset, out=tmp_path / "p.jsonl", engine="vllm")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"No engine 'vlm'. Did you mean 'vllm'"):
        predict(model, dataset=dataset, out=tmp_path / "p.jsonl", engine="vlm")
    with pytest.raises(ValueError, match="--tensor-parallel is of --engine vllm"):
        predict(model, dataset=dataset, out=tmp_path / "p.jsonl", tensor_parallel=2)
    fake_vllm.install(monkeypatch, Says(model))
    with pytest.raises(ValueError, match="--mode head reads the model's hidden states"):
        predict(model, dataset=dataset, out=tmp_path / "p.jsonl", engine="vllm", mode="head")
    assert list(tmp_path.iterdir()) == []
