"""Samples as tensors: rows of a dataset -> token ids, answer mask and image patches -> batches.

    rows = Rows(open_dataset("out/data"), "train")
    one = encode(processor, rows[0], with_answer=True)      # Encoded: input_ids (L,), labels (L,), patches, grid
    batch = collate([one, ...], processor)              # input_ids (B, L) and what else the model's forward takes

Rows are read as they are, as any `messages` trainer would: only ids, images and messages matter here.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nsdrive.dataset import Dataset
from nsdrive.vla.prompt import IMAGE_TOKEN, TASK

IGNORED = -100  # what torch's cross entropy leaves out
MAX_UNSAID = 32  # letters, chosen by us: longer than any word of a trace; a stranger's text may be one word
_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")[,}]')
MAX_IMAGE_PIXELS = 50_000_000  # chosen by us: more than any driving camera; a stranger's image may claim any size


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the VLA needs of a sample. images: files, or pictures in memory (a model that drives has no files)."""

    sample_id: str
    level: str
    images: tuple[Path | Image.Image, ...]
    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A row as tensors. input_ids and labels (L,); patches (P, values of a patch); grid (images, 3): t, h, w in patches.

    prefix: how the answer is made to begin, its tokens the last n_prefix of input_ids; all but those of its last letters,
    `unsaid`, which the model has to say again: in the training text a token may reach from them into what follows.
    """

    sample_id: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    patches: torch.Tensor | None
    grid: torch.Tensor | None
    prefix: str = ""
    unsaid: str = ""
    n_prefix: int = 0


class Rows:
    """The rows of one split, in order, read on demand: memory holds 8 bytes a row, whatever the traces weigh."""

    def __init__(self, dataset: Dataset, split: str, *, level: str | None = None) -> None:
        self._dataset, self.split = dataset, split
        self._shards = dataset.shards(split)
        self._where: list[tuple[int, int]] = []  # shard, byte offset
        for shard, path in enumerate(self._shards):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is named in the manifest but is not there")
            with path.open("rb") as lines:
                offset = 0
                for line in lines:
                    if level is None or _level_of(line, path) == level:
                        self._where.append((shard, offset))
                    offset += len(line)

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> Row:
        row = self.raw(index)
        return read_row(self._dataset, row)

    def id_of(self, index: int) -> str:
        """The sample's id. Our shards have it first, so that no whole line is parsed for it."""
        shard, offset = self._where[index]
        with self._shards[shard].open("rb") as file:
            file.seek(offset)
            found = _ID.match(file.read(512))
        return str(json.loads(found[1]) if found else self.raw(index)["id"])

    def raw(self, index: int) -> dict[str, Any]:
        """The JSON object of a row. Raises ValueError naming a broken line."""
        shard, offset = self._where[index]
        with self._shards[shard].open("rb") as file:
            file.seek(offset)
            line = file.readline()
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{self._shards[shard].name}, row {index} is not JSON ({error})") from None
        if not isinstance(row, dict) or "id" not in row:
            raise ValueError(f"{self._shards[shard].name}, row {index} is no sample: it has no id")
        return row


def read_row(dataset: Dataset, row: dict[str, Any]) -> Row:
    """A `Row`, or ValueError naming the sample and what is wrong with it."""
    sample_id = str(row["id"])
    try:
        turns = row["messages"]
        if [turn["role"] for turn in turns] != ["user", "assistant"]:
            raise ValueError("messages must be one user and one assistant turn")
        prompt, answer = (turn["content"] for turn in turns)
        if not isinstance(prompt, str) or not isinstance(answer, str) or not answer:
            raise ValueError("message contents must be text, and the answer not empty")
        if row["trace_level"] not in TASK:
            raise ValueError(f"no trace level '{row['trace_level']}'. Known: {', '.join(TASK)}")
        images = tuple(dataset.image_path(str(name)) for name in row["images"])
        if prompt.count(IMAGE_TOKEN) != len(images):
            raise ValueError(f"{prompt.count(IMAGE_TOKEN)} {IMAGE_TOKEN} in the prompt, {len(images)} images")
    except KeyError as error:
        raise ValueError(f"Sample {sample_id} lacks the field {error}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"Sample {sample_id}: {error}") from None
    return Row(sample_id=sample_id, level=str(row["trace_level"]), images=images, prompt=prompt, answer=answer)


class Schedule(torch.utils.data.Dataset[Encoded]):
    """The whole training as one sequence of samples: entry k is a pure function of (seed, k), whoever asks for it.

    Every epoch is its own permutation; nothing depends on the number of processes, so that one process and eight see
    the same global batches, and a resumed run goes on where it stopped by its step count alone.
    """

    def __init__(self, rows: Rows, processor: Any, *, n_samples: int, seed: int) -> None:
        if len(rows) == 0:
            raise ValueError(f"No samples to train on in split '{rows.split}' (check the dataset and train_level)")
        self._rows, self._processor, self._n_samples, self._seed = rows, processor, n_samples, seed
        self._epoch = -1
        self._order = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, k: int) -> Encoded:
        return encode(self._processor, self._rows[self.row_index(k)], with_answer=True)

    def row_index(self, k: int) -> int:
        epoch, place = divmod(k, len(self._rows))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))
            self._epoch = epoch
        return int(self._order[place])


def encode(
    processor: Any, row: Row, *, with_answer: bool, black_images: bool = False, prefix: str | None = None
) -> Encoded:
    """A row as the model reads it; labels are set on the answer and its end mark only.

    prefix, of a question without its answer: how the answer is made to begin.
    Raises ValueError naming the sample for an unreadable image, for a prompt that holds the tokenizer's own image
    marks, and where the prompt's tokens are not how the conversation begins (then the answer cannot be told apart).
    """
    patches, grid, counts = None, None, []
    if row.images:
        images = [_read_image(path, row.sample_id, processor, black=black_images) for path in row.images]
        seen = processor.image_processor(images, return_tensors="pt")
        patches, grid = seen["pixel_values"], seen["image_grid_thw"]
        counts = (grid.prod(dim=1) // processor.image_processor.merge_size**2).tolist()
    user = {"role": "user", "content": _parts(row.prompt)}
    answer = {"role": "assistant", "content": [{"type": "text", "text": row.answer}]}
    # enable_thinking=False: only then is the generation prompt how Qwen3.5's training text begins
    write = partial(processor.tokenizer.apply_chat_template, tokenize=False, enable_thinking=False)
    asked = write([user], add_generation_prompt=True)
    prompt_ids = _token_ids(processor, asked, counts, row.sample_id)
    unsaid = ""
    if prefix:
        assert not with_answer, "an answer that is there has its beginning"
        ids, unsaid = _begun_ids(processor, asked + prefix, counts, row.sample_id, prompt_ids)
        labels = [IGNORED] * len(ids)
    elif not with_answer:
        ids, labels = prompt_ids, [IGNORED] * len(prompt_ids)
    else:
        told = write([user, answer])
        ids = _token_ids(processor, told, counts, row.sample_id)
        if ids[: len(prompt_ids)] != prompt_ids:
            raise ValueError(
                f"Sample {row.sample_id}: the chat template writes a question with its answer unlike the question alone, "
                "so the answer cannot be masked. Use a checkpoint whose template knows enable_thinking=false"
            )
        labels = _answer_labels(processor, ids, len(prompt_ids), row.sample_id)
    return Encoded(
        sample_id=row.sample_id,
        input_ids=torch.tensor(ids, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.long),
        patches=patches,
        grid=grid,
        prefix=prefix or "",
        unsaid=unsaid,
        n_prefix=len(ids) - len(prompt_ids) if prefix else 0,
    )


def collate(items: Sequence[Encoded], processor: Any, *, for_generation: bool = False) -> dict[str, Any]:
    """A batch for the model's forward, plus `labels` (B, L) and `sample_ids`. Generation wants the padding on the left.

    Where no row of a training batch has an image, one masked image token with a black picture is added: the vision
    tower must be in every rank's graph, else ZeRO's collectives wait for each other for ever.
    """
    length = max(len(item.input_ids) for item in items)

    def padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        block = torch.full((len(rows), length), value, dtype=torch.long)
        for k, row in enumerate(rows):
            start = length - len(row) if for_generation else 0
            block[k, start : start + len(row)] = row
        return block

    batch: dict[str, Any] = {
        "input_ids": padded([item.input_ids for item in items], processor.tokenizer.pad_token_id),
        "attention_mask": padded([torch.ones_like(item.input_ids) for item in items], 0),
        "labels": padded([item.labels for item in items], IGNORED),
    }
    patches = [item.patches for item in items if item.patches is not None]
    grids = [item.grid for item in items if item.grid is not None]
    if not patches and not for_generation:
        images, n_rows = processor.image_processor, len(items)
        fill = {"input_ids": processor.tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        for name, value in fill.items():
            column = torch.full((n_rows, 1), value, dtype=torch.long)
            batch[name] = torch.cat([batch[name], column], dim=1)
        batch["input_ids"][0, -1] = processor.image_token_id
        side, values = images.merge_size, 3 * images.temporal_patch_size * images.patch_size**2
        patches, grids = [torch.zeros(side * side, values)], [torch.tensor([[1, side, side]])]
    if patches:
        batch["pixel_values"], batch["image_grid_thw"] = torch.cat(patches), torch.cat(grids)
    batch["mm_token_type_ids"] = (batch["input_ids"] == processor.image_token_id).long()
    batch["sample_ids"] = [item.sample_id for item in items]
    return batch


def _parts(prompt: str) -> list[dict[str, str]]:
    """The prompt with each `<image>` as an image part, in order."""
    parts: list[dict[str, str]] = []
    for k, text in enumerate(prompt.split(IMAGE_TOKEN)):
        if k:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _token_ids(processor: Any, text: str, counts: list[int], sample_id: str) -> list[int]:
    """Token ids of templated text, each image mark repeated as often as its picture has tokens."""
    return list(_tokens(processor, text, counts, sample_id)["input_ids"])


def _tokens(processor: Any, text: str, counts: list[int], sample_id: str) -> Any:
    pieces = text.split(processor.image_token)
    if len(pieces) != len(counts) + 1:
        raise ValueError(
            f"Sample {sample_id}: its text holds {processor.image_token}, which is for the tokenizer alone"
        )
    whole = pieces[0]
    for count, piece in zip(counts, pieces[1:], strict=True):
        whole += processor.image_token * count + piece
    return processor.tokenizer(whole, add_special_tokens=False)


def _begun_ids(
    processor: Any, text: str, counts: list[int], sample_id: str, prompt_ids: list[int]
) -> tuple[list[int], str]:
    """Token ids of a question and the beginning of its answer, and the letters at its end that are in none of them.

    A byte-pair tokenizer first splits a text into words, and tokens never reach over a word's end. Only the last word can
    become another one by what follows, so its tokens are left off: the others are those of the training text.
    """
    tokenizer = processor.tokenizer
    try:
        tokens = _tokens(processor, text, counts, sample_id)
    except (UnicodeError, TypeError):
        raise ValueError(f"Sample {sample_id}: the answer's beginning is not text that UTF-8 can say") from None
    ids, words = list(tokens["input_ids"]), tokens.word_ids(0)
    if ids[: len(prompt_ids)] != prompt_ids:
        raise ValueError(f"Sample {sample_id}: the answer's beginning changes the tokens of the prompt before it")
    if set(ids[len(prompt_ids) :]) & set(tokenizer.all_special_ids):
        raise ValueError(f"Sample {sample_id}: the answer's beginning holds a mark that is for the tokenizer alone")
    n_kept = len(ids)
    while n_kept > len(prompt_ids) and words[n_kept - 1] == words[-1]:
        n_kept -= 1
    unsaid = tokenizer.decode(ids[n_kept:], clean_up_tokenization_spaces=False)
    if not (unsaid.isascii() and len(unsaid) <= MAX_UNSAID and text.endswith(unsaid)):
        return ids, ""  # not every letter of other alphabets is a token that can be said
    return ids[:n_kept], unsaid


def _answer_labels(processor: Any, ids: list[int], n_prompt: int, sample_id: str) -> list[int]:
    """The ids after the prompt up to and with the last end mark; IGNORED elsewhere, and on the newline after it."""
    end_id = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    ends = [k for k in range(n_prompt, len(ids)) if ids[k] == end_id]
    if not ends or ends[-1] == n_prompt:
        raise ValueError(f"Sample {sample_id}: no answer token is left to train on after the chat template")
    return [IGNORED] * n_prompt + ids[n_prompt : ends[-1] + 1] + [IGNORED] * (len(ids) - ends[-1] - 1)


def _read_image(path: Path | Image.Image, sample_id: str, processor: Any, *, black: bool) -> Image.Image:
    """An RGB image, JPEGs decoded no larger than the pixel budget needs. Raises ValueError for what is not an image."""
    if isinstance(path, Image.Image):
        return Image.new("RGB", path.size) if black else _rgb(path, processor)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # an error, not a line that scrolls by
            image = Image.open(path, formats=("JPEG", "PNG"))
        with image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{width} x {height} pixels")
            if black:
                return Image.new("RGB", (width, height))
            return _rgb(image, processor)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"Sample {sample_id}: the image {path.name} cannot be read ({error})") from None


def _rgb(image: Image.Image, processor: Any) -> Image.Image:
    """JPEG decodes 2, 4 or 8 times smaller for a fraction of the time; not below the size asked for."""
    width, height = image.size
    shrink = (processor.image_processor.size["longest_edge"] / (width * height)) ** 0.5
    if shrink < 1:
        image.draft("RGB", (max(1, int(width * shrink)), max(1, int(height * shrink))))
    return image.convert("RGB")


def _level_of(line: bytes, shard: Path) -> str:
    try:
        return str(json.loads(line)["trace_level"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{shard.name} holds a line that is no sample") from None
