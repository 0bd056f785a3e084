"""A tiny, randomly initialised Qwen-class model with its own tokenizer, made in-process: all runs without a download.

    build_tiny(folder, size="xs")        # 1.6 M parameters of the Qwen3.5 architecture, a stock checkpoint folder
    load_model(folder), load_processor(folder)          # like any other checkpoint, see model.py

The same seed and texts give the same bytes. The chat template behaves as Qwen3.5's (an empty think block before an
answer), so that what is tested on the tiny model holds for the large one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsdrive.vla.model import image_only_processor, save_processor
from nsdrive.vla.prompt import CAMERA_WORDS, TASK, build_prompt, render_answer

ARCHITECTURES = ("qwen3_5", "qwen3_vl", "qwen2_5_vl")


@dataclass(frozen=True, kw_only=True)
class TinySize:
    """Widths, depths and heads."""

    hidden: int
    layers: int  # a multiple of 4: Qwen3.5 repeats three linear-attention layers and a full one
    feed_forward: int
    vision_hidden: int
    vision_layers: int
    vision_feed_forward: int
    heads: int = 4
    linear_heads: int = 2  # 4 take 1.7 times the time on a CPU
    linear_width: int = 32


# Chosen by us: xs trains on a laptop in minutes, box is the model that comes with nsdrive (an hour), s is what a test takes
# that wants more room, l what one GPU trains within half an hour: 58 M parameters with 2048 words.
SIZES = {
    "xs": TinySize(hidden=128, layers=4, feed_forward=384, vision_hidden=96, vision_layers=2, vision_feed_forward=256),
    "box": TinySize(
        hidden=192, layers=4, feed_forward=512, vision_hidden=128, vision_layers=3, vision_feed_forward=384
    ),
    "s": TinySize(hidden=256, layers=8, feed_forward=768, vision_hidden=192, vision_layers=4, vision_feed_forward=512),
    "l": TinySize(
        hidden=512,
        layers=12,
        feed_forward=1536,
        vision_hidden=384,
        vision_layers=6,
        vision_feed_forward=1536,
        heads=8,
        linear_heads=8,
        linear_width=64,
    ),
}

_WORDS = (
    "the ego lead vehicle ahead pedestrian cyclist stop line red green yellow light lane left right straight "
    "follow keep slow down accelerate brake yield speed limit gap headway metres seconds binding rule because "
    "crossing intersection roadblock connector clear free road command turn merge close far route objects summary"
)
_SPECIAL = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
_PLAIN = ("<think>", "</think>")  # not special in Qwen's tokenizers: they survive skip_special_tokens

# ChatML with images. As in Qwen3.5's template an assistant turn of the training text begins with an empty think block,
# and the generation prompt equals that text only with enable_thinking=False.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- else -%}{{- '<think>\\n' -}}{%- endif -%}
{%- endif -%}"""


def build_tiny(
    out: Path,
    *,
    arch: str = "qwen3_5",
    size: str = "xs",
    seed: int = 0,
    texts: Iterable[str] | None = None,
    vocabulary: int = 1024,
) -> None:
    """Write a stock checkpoint folder (safetensors, processor, chat template) of a tiny random model.

    texts: what the tokenizer learns from (prompts and answers of the data set); a built-in corpus where None.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"No tiny architecture '{arch}'. Known: {', '.join(ARCHITECTURES)}")
    if size not in SIZES:
        raise ValueError(f"No tiny size '{size}'. Known: {', '.join(SIZES)}")
    from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil

    tokenizer = train_tokenizer(built_in_corpus(seed) if texts is None else texts, vocabulary=vocabulary, arch=arch)
    config = _model_config(tokenizer, arch, SIZES[size])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    end_ids = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = end_ids, tokenizer.pad_token_id
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=_patch_px(arch),
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": 4 * 32**2, "longest_edge": 256 * 32**2},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    model.save_pretrained(out)
    save_processor(image_only_processor(arch)(image_processor, tokenizer, chat_template=CHAT_TEMPLATE), out)


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, arch: str = "qwen3_5") -> Any:
    """A byte-level BPE tokenizer with Qwen's own pre-tokenisation: it can say any text, and every digit is a token."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2_REGEX
    from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN3_5_REGEX
    from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

    is_qwen3_5 = arch == "qwen3_5"
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN3_5_REGEX if is_qwen3_5 else QWEN2_REGEX), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=sorted(alphabet), special_tokens=[], show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    learnt: dict[str, Any] = json.loads(bpe.to_str())["model"]
    merges: list[Any] = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = (Qwen3_5Tokenizer if is_qwen3_5 else Qwen2Tokenizer)(
        vocab=dict(learnt["vocab"]),
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=32768,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in _PLAIN])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def built_in_corpus(seed: int, n_texts: int = 400) -> Iterator[str]:
    """Prompts and answers in the data set's form, for a tokenizer that is made before there is a data set."""
    rng = np.random.default_rng([seed, 1])
    words = _WORDS.split()
    for _ in range(n_texts):
        level = str(rng.choice(list(TASK)))
        history = [
            {
                "t_s": -0.5 * k,
                **{
                    name: float(rng.uniform(-20, 20))
                    for name in ("x_m", "y_m", "vx_mps", "vy_mps", "ax_mps2", "ay_mps2")
                },
            }
            for k in range(4, -1, -1)
        ]
        limit = None if rng.random() < 0.2 else float(rng.uniform(5, 20))
        yield build_prompt(
            cameras=list(CAMERA_WORDS),
            ego_history=history,
            command=str(rng.choice(words)),
            speed_limit_mps=limit,
            level=level,
        )
        said = " ".join(f"{word} {rng.uniform(0, 60):.2f}" for word in rng.choice(words, size=24))
        points = np.cumsum(rng.uniform([0, -1], [8, 1], size=(10, 2)), axis=0)
        yield render_answer("" if level == "none" else said + ".", points)


def _patch_px(arch: str) -> int:
    return 14 if arch == "qwen2_5_vl" else 16


def _model_config(tokenizer: Any, arch: str, size: TinySize) -> Any:
    """The architecture's stock config, shrunk. Head counts, widths and rotary sections are the least that fit it."""
    from transformers import Qwen2_5_VLConfig, Qwen3_5Config, Qwen3VLConfig

    token_id = tokenizer.convert_tokens_to_ids
    ids = {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
    }
    text: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": size.hidden,
        "intermediate_size": size.feed_forward,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision: dict[str, Any] = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_feed_forward,
        "num_heads": 4,
        "patch_size": _patch_px(arch),
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": size.hidden,
    }
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
    if arch == "qwen3_5":
        heads = {"linear_num_key_heads": size.linear_heads, "linear_num_value_heads": size.linear_heads}
        widths = {"linear_key_head_dim": size.linear_width, "linear_value_head_dim": size.linear_width}
        sections = {"partial_rotary_factor": 0.5, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
        text |= {**heads, **widths, "head_dim": 64, "full_attention_interval": 4, "rope_parameters": rope | sections}
        vision |= {"num_position_embeddings": 256}
        return Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    if arch == "qwen3_vl":
        text |= {"head_dim": 64, "rope_parameters": rope | {"mrope_section": [12, 10, 10], "mrope_interleaved": True}}
        vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]}
        return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    half = size.hidden // size.heads // 2
    text |= {"rope_parameters": rope | {"mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}}
    vision |= {"window_size": 112, "fullatt_block_indexes": [size.vision_layers - 1]}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
