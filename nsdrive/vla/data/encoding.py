"""A sample as tensors: a row of a dataset -> token ids, answer mask and image patches.

one = encode(processor, rows[0], with_answer=True)      # Encoded: input_ids (L,), labels (L,), parts (L,), patches, grid
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nsdrive.dataset import PERCEPTION
from nsdrive.vla.data.images import image_patches
from nsdrive.vla.data.rows import Row, StoredImage
from nsdrive.vla.prompt import IMAGE_TOKEN
from nsdrive.world.types import FloatArray

UNTRAINED, REASONING, PLANNING, PERCEIVING = 0, 1, 2, 3  # what a token of `parts` belongs to
TURN = "<|im_start|>"  # begins each turn in Qwen's chat templates
AFTER_REASONING = "</REASONING>\n"
IGNORED = -100  # what torch's cross entropy leaves out
MAX_UNSAID = 32  # letters, chosen by us: longer than any word of a trace; a stranger's text may be one word
MAX_IMAGE_PIXELS = 50_000_000  # chosen by us: more than any driving camera; a stranger's image may claim any size


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A row as tensors. input_ids, labels and parts (L,); patches (P, 3 * patch * patch) uint8; grid (images, 3): t, h, w.

    parts (int8): UNTRAINED, REASONING, or PLANNING from what follows the reasoning to the end mark; PERCEIVING all of an answer
    about images. last_prompt: the index of the prompt's last token. waypoints (10, 2) m and ego_now (vx, vy, ax, ay), both in
    the ego frame, as the row has them.
    prefix: how the answer is made to begin, its tokens the last n_prefix of input_ids; all but those of its last letters,
    `unsaid`, which the model has to say again: in the training text a token may reach from them into what follows.
    """

    sample_id: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    parts: torch.Tensor
    patches: torch.Tensor | None
    grid: torch.Tensor | None
    last_prompt: int
    waypoints: FloatArray | None = None
    ego_now: tuple[float, float, float, float] | None = None
    prefix: str = ""
    unsaid: str = ""
    n_prefix: int = 0


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
        seen = [_patches(path, row.sample_id, processor, black=black_images) for path in row.images]
        patches, grid = torch.cat([one for one, _ in seen]), torch.tensor([shape for _, shape in seen])
        counts = (grid.prod(dim=1) // processor.image_processor.merge_size**2).tolist()
    user = {"role": "user", "content": _parts(row.prompt)}
    # enable_thinking=False: only then is the generation prompt how Qwen3.5's training text begins
    write = partial(processor.tokenizer.apply_chat_template, tokenize=False, enable_thinking=False)
    asked = write([user], add_generation_prompt=True)
    unsaid, border = "", 0
    if with_answer:
        assert not prefix, "an answer that is there has its beginning"
        told = write([user, {"role": "assistant", "content": [{"type": "text", "text": row.answer}]}])
        tokens = _tokens(processor, told, counts, row.sample_id)
        ids, n_prompt = list(tokens["input_ids"]), _prompt_length(processor, asked, told, tokens, row.sample_id)
        n_trained = _trained_length(processor, ids, n_prompt, row.sample_id)
        at = told.rfind(AFTER_REASONING)
        if at >= 0:
            border = max(0, tokens.char_to_token(0, at + len(AFTER_REASONING)) - n_prompt)
    else:
        ids = list(_tokens(processor, asked, counts, row.sample_id)["input_ids"])
        n_prompt, n_trained = len(ids), 0
        if prefix:
            ids, unsaid = _begun_ids(processor, asked + prefix, counts, row.sample_id, ids)
    n_prefix = len(ids) - n_prompt if prefix else 0
    n_prompt += sum(counts) - len(counts)  # each image's one mark is to become its count of tokens
    input_ids = _spread(ids, counts, processor.image_token_id)
    parts = torch.full(input_ids.shape, UNTRAINED, dtype=torch.int8)
    parts[n_prompt : n_prompt + n_trained] = PERCEIVING if row.level == PERCEPTION else PLANNING
    parts[n_prompt : n_prompt + border] = REASONING
    return Encoded(
        sample_id=row.sample_id,
        input_ids=input_ids,
        labels=torch.where(parts == UNTRAINED, IGNORED, input_ids),
        parts=parts,
        patches=patches,
        grid=grid,
        last_prompt=n_prompt - 1,
        waypoints=row.waypoints_ego_m,
        ego_now=row.ego_now,
        prefix=prefix or "",
        unsaid=unsaid,
        n_prefix=n_prefix,
    )


def _parts(prompt: str) -> list[dict[str, str]]:
    """The prompt with each `<image>` as an image part, in order."""
    parts: list[dict[str, str]] = []
    for k, text in enumerate(prompt.split(IMAGE_TOKEN)):
        if k:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _tokens(processor: Any, text: str, counts: list[int], sample_id: str) -> Any:
    """The tokenizer's encoding of templated text, each image still one mark."""
    if text.count(processor.image_token) != len(counts):
        raise ValueError(
            f"Sample {sample_id}: its text holds {processor.image_token}, which is for the tokenizer alone"
        )
    return processor.tokenizer(text, add_special_tokens=False)


def _spread(ids: list[int], counts: list[int], image_id: int) -> torch.Tensor:
    """The ids with each image mark repeated as often as its picture has tokens."""
    marked = np.array(ids, dtype=np.int64)
    times = np.ones(len(ids), dtype=np.int64)
    times[marked == image_id] = counts
    return torch.from_numpy(np.repeat(marked, times))


def _prompt_length(processor: Any, asked: str, told: str, tokens: Any, sample_id: str) -> int:
    """How many of the tokens of `told` are those of `asked`; ValueError where `asked` alone would have others.

    A tokenizer reads what stands between its special marks apart from the rest. So only what follows the question's last mark,
    which is the same in every sample, could be read otherwise for what comes after it.
    """
    last = asked[max(0, asked.rfind(TURN)) :]
    expected = _template_ids(processor.tokenizer, last)
    if told.startswith(asked):
        n_prompt = tokens.char_to_token(0, len(asked)) or 0
        same = tokens["input_ids"][n_prompt - len(expected) : n_prompt] == expected
        if n_prompt >= len(expected) and same and tokens.token_to_chars(0, n_prompt).start == len(asked):
            return int(n_prompt)
    raise ValueError(
        f"Sample {sample_id}: the chat template writes a question with its answer unlike the question alone, "
        "so the answer cannot be masked. Use a checkpoint whose template knows enable_thinking=false"
    )


@lru_cache(maxsize=8)
def _template_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _trained_length(processor: Any, ids: list[int], n_prompt: int, sample_id: str) -> int:
    """How many tokens after the prompt are trained on: the answer with its end mark, not the newline after it."""
    end_id = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    ends = [k for k in range(n_prompt, len(ids)) if ids[k] == end_id]
    if not ends or ends[-1] == n_prompt:
        raise ValueError(f"Sample {sample_id}: no answer token is left to train on after the chat template")
    return ends[-1] + 1 - n_prompt


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


def _patches(
    image: Path | StoredImage | Image.Image, sample_id: str, processor: Any, *, black: bool
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    picture = _read_image(image, sample_id, processor, black=black)
    try:
        return image_patches(picture, processor.image_processor)
    except ValueError as error:
        raise ValueError(f"Sample {sample_id}: an image cannot be used ({error})") from None


def _read_image(
    source: Path | StoredImage | Image.Image, sample_id: str, processor: Any, *, black: bool
) -> Image.Image:
    """An RGB image, JPEGs decoded no larger than the pixel budget needs. Raises ValueError for what is not an image."""
    if isinstance(source, Image.Image):
        return Image.new("RGB", source.size) if black else _rgb(source, processor)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # an error, not a line that scrolls by
            file = source.file() if isinstance(source, StoredImage) else source
            image = Image.open(file, formats=("JPEG", "PNG"))
        with image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{width} x {height} pixels")
            if black:
                return Image.new("RGB", (width, height))
            return _rgb(image, processor)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"Sample {sample_id}: the image {source.name} cannot be read ({error})") from None


def _rgb(image: Image.Image, processor: Any) -> Image.Image:
    """JPEG decodes 2, 4 or 8 times smaller for a fraction of the time; not below the size asked for."""
    width, height = image.size
    shrink = (processor.image_processor.size["longest_edge"] / (width * height)) ** 0.5
    if shrink < 1:
        image.draft("RGB", (max(1, int(width * shrink)), max(1, int(height * shrink))))
    return image.convert("RGB")
