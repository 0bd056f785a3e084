"""How many tokens a sample has: images and text, over some rows of a dataset, or of the samples that `nsdrive generate` makes.

sample_size(rows, shape=ImageShape(...), tokenizer=tokenizer)     # counted on 64 rows spread over the split
typical_sample_size(cameras=8, shape=...)                         # without a dataset
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsdrive.counted import counted
from nsdrive.vla.data.images import ImageShape
from nsdrive.vla.data.rows import StoredImage, evenly_spread, require_rows

SAMPLED_ROWS = 64  # chosen by us: the mean is then known to a few tokens, in well under a second
# Of 128 samples of the synthetic set at level detailed, 3 cameras, with the tokenizers of Qwen3.5 and Qwen2.5 (they agree
# to 2 %): the question without its images, and the answer; and letters per token, where no tokenizer can be loaded.
PROMPT_TOKENS, ANSWER_TOKENS, LONGEST_ANSWER_TOKENS = 360, 735, 1072
CAMERA_TEXT_TOKENS = 7  # "front left camera: ", the line's end and the marks around an image
PROMPT_LETTERS_PER_TOKEN, ANSWER_LETTERS_PER_TOKEN = 2.24, 1.95
TEMPLATE_TOKENS = 20  # chat marks and the empty think block of Qwen3.5
TYPICAL_IMAGE = (1600, 900)  # width, height [px]: a driving camera; larger than any image budget


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """Tokens of a sample, all and its parts. counted: in how many rows, 0 for the typical sample; exact_text: by a tokenizer."""

    mean: float
    most: int
    images: float
    text: float
    answer: float
    most_answer: int
    most_image: int  # tokens of all images of one sample
    cameras: float
    counted: int
    exact_text: bool

    def __str__(self) -> str:
        per_camera = round(self.images / self.cameras) if self.cameras else 0
        how = (
            f"{counted(self.counted, 'row')} counted"
            + ("" if self.exact_text else ", the text estimated by its letters")
            if self.counted
            else "as `nsdrive generate` makes them at level detailed"
        )
        return (
            f"{self.mean:,.0f} mean, {self.most:,} longest = {counted(self.cameras, 'camera', form='.3g')} x {per_camera} + "
            f"{self.text:,.0f} of text, "
            f"{self.answer:,.0f} of them answer ({how})"
        )


def typical_sample_size(*, cameras: int, shape: ImageShape) -> SampleSize:
    """That of a detailed sample of `nsdrive generate`, its images as large as the budget lets them be."""
    images = cameras * shape.tokens(*TYPICAL_IMAGE)
    prompt = PROMPT_TOKENS + CAMERA_TEXT_TOKENS * (cameras - 3)
    return SampleSize(
        mean=images + prompt + ANSWER_TOKENS,
        most=images + prompt + LONGEST_ANSWER_TOKENS,
        images=images,
        text=prompt + ANSWER_TOKENS,
        answer=ANSWER_TOKENS,
        most_answer=LONGEST_ANSWER_TOKENS,
        most_image=images,
        cameras=cameras,
        counted=0,
        exact_text=True,
    )


def sample_size(rows: Any, *, shape: ImageShape, tokenizer: Any = None) -> SampleSize:
    """Counted on up to `SAMPLED_ROWS` rows, evenly spread: of images only the size is read.

    rows: `Rows`, or anything with their length and items. Raises ValueError naming a sample whose image cannot be read.
    """
    require_rows(rows)
    picked = evenly_spread(len(rows), SAMPLED_ROWS)
    images, prompts, answers, cameras = [], [], [], []
    for k in picked:
        row = rows[k]
        images.append(sum(shape.tokens(*image_size(image, row.sample_id)) for image in row.images))
        prompts.append(_count(tokenizer, row.prompt.replace("<image>", ""), PROMPT_LETTERS_PER_TOKEN))
        answers.append(_count(tokenizer, row.answer, ANSWER_LETTERS_PER_TOKEN) + 1)  # and its end mark
        cameras.append(len(row.images))
    text = [p + a + TEMPLATE_TOKENS + 2 * c for p, a, c in zip(prompts, answers, cameras, strict=True)]
    whole = [i + t for i, t in zip(images, text, strict=True)]
    return SampleSize(
        mean=float(np.mean(whole)),
        most=max(whole),
        images=float(np.mean(images)),
        text=float(np.mean(text)),
        answer=float(np.mean(answers)),
        most_answer=max(answers),
        most_image=max(images),
        cameras=float(np.mean(cameras)),
        counted=len(picked),
        exact_text=tokenizer is not None,
    )


def image_size(image: Path | StoredImage | Image.Image, sample_id: str) -> tuple[int, int]:
    """Width and height [px], of a file without decoding it."""
    if isinstance(image, Image.Image):
        return image.size
    try:
        file = image.file() if isinstance(image, StoredImage) else image
        with Image.open(file, formats=("JPEG", "PNG")) as opened:
            return opened.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        missing = isinstance(error, FileNotFoundError)
        why = "is not there: the dataset's folder is not whole" if missing else f"cannot be read ({error})"
        raise ValueError(f"Sample {sample_id}: the image {image.name} {why}") from None


def _count(tokenizer: Any, text: str, letters_per_token: float) -> int:
    if tokenizer is None:
        return round(len(text) / letters_per_token)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
