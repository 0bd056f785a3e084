from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from vla_fixtures import make_dataset

from nsdrive.dataset import open_dataset
from nsdrive.vla.data.batch import Collator, collate, model_inputs
from nsdrive.vla.data.encoding import IGNORED, PLANNING, REASONING, encode
from nsdrive.vla.data.rows import Rows, read_row
from nsdrive.vla.data.schedule import Schedule
from nsdrive.vla.model import load_model, load_processor


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Any:
    return load_processor(tiny_folder, min_pixels=1024, max_pixels=4096)


@pytest.fixture(scope="module")
def rows(dataset: Path) -> Rows:
    return Rows(open_dataset(dataset), "train")


def test_the_labels_are_the_answer_and_its_end_mark(processor: Any, rows: Rows) -> None:
    encoded = encode(processor, rows[0], with_answer=True)
    said = encoded.input_ids[encoded.labels != IGNORED].tolist()
    assert processor.tokenizer.decode(said) == rows[0].answer + "<|im_end|>"
    assert encoded.labels[-1] == IGNORED  # the template's newline after the end mark
    question = encode(processor, rows[0], with_answer=False).input_ids
    assert torch.equal(encoded.input_ids[: len(question)], question)
    assert processor.tokenizer.decode(question).endswith("<think>\n\n</think>\n\n")


def test_a_token_is_of_the_reasoning_or_of_the_plan(processor: Any, rows: Rows) -> None:
    encoded, decode = encode(processor, rows[0], with_answer=True), processor.tokenizer.decode
    reasoning, _, plan = rows[0].answer.partition("</REASONING>\n")
    assert decode(encoded.input_ids[encoded.parts == REASONING]) == reasoning + "</REASONING>\n"
    assert decode(encoded.input_ids[encoded.parts == PLANNING]) == plan + "<|im_end|>"
    assert torch.equal(encoded.parts != 0, encoded.labels != IGNORED)
    silent = encode(processor, replace(rows[0], answer=plan), with_answer=True)
    assert decode(silent.input_ids[silent.parts == PLANNING]) == plan + "<|im_end|>"
    assert REASONING not in silent.parts
    assert not encode(processor, rows[0], with_answer=False).parts.any()


def test_a_batch_says_where_each_prompt_ends_and_what_is_known_as_numbers(processor: Any, rows: Rows) -> None:
    unknown = replace(rows[1], prompt="Go. " + rows[1].prompt, waypoints_ego_m=None, ego_now=None)
    for_training = [encode(processor, row, with_answer=True) for row in (rows[0], unknown)]
    questions = [encode(processor, row, with_answer=False) for row in (rows[0], unknown)]
    assert len(questions[0].input_ids) != len(questions[1].input_ids)
    begun = encode(processor, rows[0], with_answer=False, prefix="<REASONING>Lead vehicle at")
    assert begun.last_prompt == questions[0].last_prompt
    for batch in (collate(for_training, processor), collate(questions, processor, for_generation=True)):
        for (k, at), question in zip(batch["read_at"].tolist(), questions, strict=True):
            start = at + 1 - len(question.input_ids)
            assert torch.equal(batch["input_ids"][k, start : at + 1], question.input_ids)
        known = rows[0]
        assert known.waypoints_ego_m is not None
        assert known.ego_now is not None
        assert torch.allclose(batch["waypoints"][0], torch.tensor(known.waypoints_ego_m, dtype=torch.float32))
        assert batch["ego_now"][0].tolist() == pytest.approx(known.ego_now)
        assert known.ego_now[0] == pytest.approx(2 * known.waypoints_ego_m[0, 0], rel=1e-3)  # it drives steadily on
        assert batch["waypoints"][1].isnan().all()
        assert batch["ego_now"][1].isnan().all()


def test_images_stand_where_the_prompt_names_them(processor: Any, rows: Rows) -> None:
    encoded = encode(processor, rows[0], with_answer=False)
    text = processor.tokenizer.decode(encoded.input_ids)
    n_tokens = int(encoded.grid.prod(dim=1)[0]) // 4
    image = "<|vision_start|>" + "<|image_pad|>" * n_tokens + "<|vision_end|>"
    assert f"front camera: {image}\nright camera: " not in text
    assert text.count(image) == 3
    assert f"front camera: {image}\nfront right camera: {image}" in text


def test_the_tokens_are_the_stock_processors(processor: Any, rows: Rows) -> None:
    row = rows[0]
    turns = [
        {"role": "user", "content": [*({"type": kind} for kind in ("image",) * 3), {"type": "text", "text": "Go?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": row.answer}]},
    ]
    told = processor.tokenizer.apply_chat_template(turns, tokenize=False)
    images = [Image.open(path) for path in row.images if isinstance(path, Path)]
    stock = processor(text=[told], images=images, return_tensors="pt")
    encoded = encode(processor, replace(row, prompt="<image>" * 3 + "Go?"), with_answer=True)
    assert torch.equal(stock["input_ids"][0], encoded.input_ids)
    inputs = model_inputs(collate([encoded], processor), processor)
    assert torch.allclose(inputs["pixel_values"], stock["pixel_values"], atol=1e-5)
    assert torch.equal(inputs["image_grid_thw"], stock["image_grid_thw"])


def test_a_template_that_writes_the_question_differently_is_refused(processor: Any, rows: Rows) -> None:
    usual = processor.tokenizer.chat_template
    try:
        processor.tokenizer.chat_template = usual.replace("assistant\\n", "assistant, think:\\n")
        with pytest.raises(ValueError, match=r"train-0.*cannot be masked"):
            encode(processor, rows[0], with_answer=True)
    finally:
        processor.tokenizer.chat_template = usual


def test_what_is_wrong_with_a_sample_is_said_with_its_name(processor: Any, dataset: Path, rows: Rows) -> None:
    opened, raw = open_dataset(dataset), rows.raw(1)
    with pytest.raises(ValueError, match=r"train-1: 3 <image> in the prompt, 2 images"):
        read_row(opened, raw | {"images": raw["images"][:2]})
    with pytest.raises(ValueError, match=r"train-1.*does not stay inside"):
        read_row(opened, raw | {"images": ["../../etc/passwd"] * 3})
    with pytest.raises(ValueError, match="train-1 lacks the field 'messages'"):
        read_row(opened, {k: v for k, v in raw.items() if k != "messages"})
    with pytest.raises(ValueError, match="train-1: waypoints_ego_m must be 10 finite points"):
        read_row(opened, raw | {"nsdrive": raw["nsdrive"] | {"waypoints_ego_m": [[0.0, float("nan")]] * 10}})
    for odd in ([1], {"waypoints_ego_m": [[0, 10**400]] * 10}):
        with pytest.raises(ValueError, match="Sample train-1: "):
            read_row(opened, raw | {"nsdrive": odd})
    with pytest.raises(ValueError, match=r"train-1: its text holds <\|image_pad\|>"):
        encode(processor, replace(rows[1], prompt=rows[1].prompt + "<|image_pad|>"), with_answer=False)


def test_a_broken_image_is_an_error_and_a_black_one_is_black(processor: Any, rows: Rows, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    good = rows[0].images[0]
    assert isinstance(good, Path)
    broken.write_bytes(good.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"train-0: the image broken\.jpg cannot be read"):
        encode(processor, replace(rows[0], images=(broken,) * 3), with_answer=False)
    black = encode(processor, rows[0], with_answer=False, black_images=True)
    seen = encode(processor, rows[0], with_answer=False)
    assert torch.equal(black.input_ids, seen.input_ids)
    assert black.patches.unique().tolist() == [0]
    assert len(seen.patches.unique()) > 10


def test_padding_on_either_side_does_not_touch_the_logits(processor: Any, rows: Rows, tiny_folder: Path) -> None:
    short = replace(rows[0], prompt=rows[0].prompt.replace("Answer", "")[: -len(" in a <PLANNING> block.")])
    items = [encode(processor, row, with_answer=False) for row in (short, rows[1])]
    assert len(items[0].input_ids) < len(items[1].input_ids)
    model = load_model(tiny_folder).eval()

    def last_logits(batch: dict[str, Any], place: int) -> torch.Tensor:
        with torch.inference_mode():
            return model(**model_inputs(batch, processor)).logits[0, place]

    alone = last_logits(collate(items[:1], processor), len(items[0].input_ids) - 1)
    right = last_logits(collate(items, processor), len(items[0].input_ids) - 1)
    left = last_logits(collate(items, processor, for_generation=True), -1)
    assert torch.allclose(alone, right, atol=1e-5)
    assert torch.allclose(alone, left, atol=1e-5)


def test_a_batch_without_images_reaches_the_vision_tower_and_changes_nothing(
    processor: Any, tmp_path: Path, tiny_folder: Path
) -> None:
    blind = Rows(open_dataset(make_dataset(tmp_path, n_images=0, n_train=2)), "train")
    items = [encode(processor, blind[k], with_answer=True) for k in range(2)]
    batch = collate(items, processor)
    assert batch["image_patches"].shape[0] == 4
    assert batch["attention_mask"][:, -1].tolist() == [0, 0]
    model = load_model(tiny_folder)
    n = len(items[0].input_ids)
    logits = model(**model_inputs(batch, processor)).logits
    logits[batch["labels"] != IGNORED].sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "visual" in name)
    with torch.inference_mode():
        without = model(input_ids=items[0].input_ids[None]).logits
    assert torch.allclose(logits[0, :n], without[0], atol=1e-5)
    assert "image_patches" not in collate(items, processor, for_generation=True)


def test_the_schedule_is_a_permutation_every_epoch_and_a_pure_function_of_seed_and_place(
    processor: Any, rows: Rows
) -> None:
    one = Schedule(rows, processor, n_samples=40, seed=3)
    order = [one.row_index(k) for k in range(40)]
    assert sorted(order[:12]) == sorted(order[12:24]) == list(range(12))
    assert order[:12] != order[12:24]
    assert [one.row_index(k) for k in reversed(range(40))] == order[::-1]
    assert Counter(order).most_common(1)[0][1] == 4
    assert [Schedule(rows, processor, n_samples=40, seed=4).row_index(k) for k in range(12)] != order[:12]


class Lengths:
    """Rows of which only the lengths are known."""

    split = "train"

    def __init__(self, n: int) -> None:
        self._bytes = np.random.default_rng(0).integers(100, 4000, n)

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def shuffled(self, rng: np.random.Generator) -> Any:
        return rng.permutation(len(self))

    def text_bytes(self) -> Any:
        return self._bytes

    def image_counts(self) -> Any:
        return np.full(len(self), 3)


@pytest.mark.parametrize("n", [5, 8, 64, 500, 1003])
def test_grouped_by_length_an_epoch_still_has_every_sample_once(processor: Any, n: int) -> None:
    rows = Lengths(n)
    schedule = Schedule(rows, processor, n_samples=3 * n + 7, seed=1, group_by=8)
    order = [schedule.row_index(k) for k in range(3 * n + 7)]
    for epoch in range(3):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert len(set(order[3 * n :])) == min(7, n)
    again = Schedule(rows, processor, n_samples=3 * n + 7, seed=1, group_by=8)
    assert [again.row_index(k) for k in reversed(range(3 * n + 7))] == order[::-1]  # whoever asks, in any order


def test_grouped_by_length_little_of_a_batch_is_padding_and_batches_come_in_any_order(processor: Any) -> None:
    rows, n = Lengths(1003), 1003

    def padding(group_by: int | None) -> float:
        schedule = Schedule(rows, processor, n_samples=2 * n, seed=1, group_by=group_by)
        lengths = np.array([rows.text_bytes()[schedule.row_index(k)] for k in range(2000)]).reshape(-1, 8)
        assert abs(np.corrcoef(lengths.mean(axis=1), np.arange(250))[0, 1]) < 0.2  # no curriculum by accident
        return 1 - lengths.sum() / (8 * lengths.max(axis=1)).sum()

    assert padding(None) > 0.4
    assert padding(8) < 0.06


@pytest.mark.parametrize(("processes", "per_device", "accumulation"), [(2, 2, 2), (4, 2, 1), (1, 1, 8), (8, 1, 1)])
def test_any_number_of_processes_sees_the_same_global_batches(
    processor: Any, processes: int, per_device: int, accumulation: int
) -> None:
    rows, n_steps = Lengths(50), 20
    schedule = Schedule(rows, processor, n_samples=8 * n_steps, seed=1, group_by=8)
    places = BatchSampler(SequentialSampler(schedule), per_device, drop_last=False)
    seen: list[list[int]] = [[] for _ in range(n_steps)]
    for process in range(processes):
        for number, batch in enumerate(BatchSamplerShard(places, processes, process)):
            seen[number // accumulation] += [schedule.row_index(k) for k in batch]
    for step, batch in enumerate(seen):
        assert sorted(batch) == sorted(schedule.row_index(8 * step + k) for k in range(8))


def test_a_worker_s_bad_sample_is_one_line_with_its_name(processor: Any, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path, n_train=3)
    (folder / "images" / "train-1" / "CAM_R0.jpg").write_bytes(b"no image")
    schedule = Schedule(Rows(open_dataset(folder), "train"), processor, n_samples=3, seed=0)
    for workers in (0, 1):
        loader = DataLoader(schedule, num_workers=workers, collate_fn=Collator(processor))
        with pytest.raises(ValueError, match=r"^Sample train-1: the image CAM_R0\.jpg cannot be read") as caught:
            list(loader)
        assert "\n" not in str(caught.value)


def test_rows_can_be_chosen_by_trace_level(dataset: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(dataset, mixed)
    shard = mixed / "train-00000.jsonl"
    lines = [json.loads(line) for line in shard.read_text().splitlines()]
    lines[3]["trace_level"] = "none"
    shard.write_text("".join(json.dumps(line) + "\n" for line in lines))
    chosen = Rows(open_dataset(mixed), "train", level="none")
    assert [chosen[k].sample_id for k in range(len(chosen))] == ["train-3"]
    with pytest.raises(ValueError, match="No samples to train on"):
        Schedule(Rows(open_dataset(mixed), "train", level="detailed"), None, n_samples=4, seed=0)


def test_a_large_jpeg_is_decoded_no_larger_than_needed_and_looks_the_same(
    processor: Any, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1600, 900), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    row = replace(rows[0], images=(tmp_path / "a.jpg",) * len(rows[0].images))
    sizes, draft = [], JpegImageFile.draft

    def noted(image: Any, *asked: Any) -> Any:
        drafted = draft(image, *asked)
        sizes.append(image.size)
        return drafted

    monkeypatch.setattr(JpegImageFile, "draft", noted)
    small = encode(processor, row, with_answer=False).patches.float()
    assert set(sizes) == {(200, 113)}  # an eighth, the smallest that JPEG has: still more than 4,096 pixels
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: None)
    whole = encode(processor, row, with_answer=False).patches.float()
    assert small.shape == whole.shape
    assert 0.0 < (small - whole).abs().mean() < 2.0  # grey levels
