"""The public shapes of the checkpoints that the recipes name, so that a run can be forecast without their weights.

    config_of("Qwen/Qwen3.5-4B")      # transformers' config, built from the numbers below; nothing is downloaded
    config_of("out/run/model")        # a folder's, or a cached hub id's, own config.json

The numbers are those of each checkpoint's config.json on the hub. What the meta-device models built from them count was
compared with the parameter counts that the hub states, to the parameter (Qwen3.5's without its extra prediction layer,
which transformers does not load).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Vision:
    """A vision tower: a ViT, then a merger that turns merge x merge patches into one token of the text's width."""

    depth: int
    hidden: int
    heads: int
    feed_forward: int
    deepstack: tuple[
        int, ...
    ] = ()  # Qwen3-VL: after these blocks, too, patches are merged and given to the text's layers


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What tells one checkpoint of a family from another. family: transformers' model_type."""

    family: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int
    tied: bool  # the embedding is the output layer too
    vision: Vision
    linear_value_heads: int = 0  # Qwen3.5: of its gated delta rule


_VIT_S = Vision(depth=12, hidden=768, heads=12, feed_forward=3072)
_VIT_M = Vision(depth=24, hidden=1024, heads=16, feed_forward=4096)
_VIT_L = Vision(depth=27, hidden=1152, heads=16, feed_forward=4304)
_VIT_M_DEEP = Vision(depth=24, hidden=1024, heads=16, feed_forward=4096, deepstack=(5, 11, 17))
_VIT_L_DEEP = Vision(depth=27, hidden=1152, heads=16, feed_forward=4304, deepstack=(8, 16, 24))
_VIT_2_5 = Vision(depth=32, hidden=1280, heads=16, feed_forward=3420)

SHAPES: dict[str, Shape] = {
    "Qwen/Qwen3.5-0.8B": Shape(
        family="qwen3_5", hidden=1024, layers=24, heads=8, key_value_heads=2, feed_forward=3584, vocabulary=248320,
        tied=True, vision=_VIT_S, linear_value_heads=16,
    ),
    "Qwen/Qwen3.5-2B": Shape(
        family="qwen3_5", hidden=2048, layers=24, heads=8, key_value_heads=2, feed_forward=6144, vocabulary=248320,
        tied=True, vision=_VIT_M, linear_value_heads=16,
    ),
    "Qwen/Qwen3.5-4B": Shape(
        family="qwen3_5", hidden=2560, layers=32, heads=16, key_value_heads=4, feed_forward=9216, vocabulary=248320,
        tied=True, vision=_VIT_M, linear_value_heads=32,
    ),
    "Qwen/Qwen3.5-9B": Shape(
        family="qwen3_5", hidden=4096, layers=32, heads=16, key_value_heads=4, feed_forward=12288, vocabulary=248320,
        tied=False, vision=_VIT_L, linear_value_heads=32,
    ),
    "Qwen/Qwen3-VL-2B-Instruct": Shape(
        family="qwen3_vl", hidden=2048, layers=28, heads=16, key_value_heads=8, feed_forward=6144, vocabulary=151936,
        tied=True, vision=_VIT_M_DEEP,
    ),
    "Qwen/Qwen3-VL-4B-Instruct": Shape(
        family="qwen3_vl", hidden=2560, layers=36, heads=32, key_value_heads=8, feed_forward=9728, vocabulary=151936,
        tied=True, vision=_VIT_M_DEEP,
    ),
    "Qwen/Qwen3-VL-8B-Instruct": Shape(
        family="qwen3_vl", hidden=4096, layers=36, heads=32, key_value_heads=8, feed_forward=12288, vocabulary=151936,
        tied=False, vision=_VIT_L_DEEP,
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": Shape(
        family="qwen2_5_vl", hidden=2048, layers=36, heads=16, key_value_heads=2, feed_forward=11008, vocabulary=151936,
        tied=True, vision=_VIT_2_5,
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape(
        family="qwen2_5_vl", hidden=3584, layers=28, heads=28, key_value_heads=4, feed_forward=18944, vocabulary=152064,
        tied=False, vision=_VIT_2_5,
    ),
}  # fmt: skip


def config_of(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """transformers' config of a model folder, a cached hub id, or one of `SHAPES`.

    Raises what `nsdrive.vla.model.model_config` raises for what is none of them.
    """
    from nsdrive.vla.model import model_config

    if str(source) in SHAPES and not Path(source).is_dir():
        return _build(SHAPES[str(source)])
    return model_config(source, trust_remote_code=trust_remote_code)


def _build(shape: Shape) -> Any:
    """The stock config of a family with a checkpoint's numbers; what all sizes of a family share stands here."""
    from transformers import Qwen2_5_VLConfig, Qwen3_5Config, Qwen3VLConfig

    text: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "tie_word_embeddings": shape.tied,
    }
    vision: dict[str, Any] = {
        "depth": shape.vision.depth,
        "hidden_size": shape.vision.hidden,
        "intermediate_size": shape.vision.feed_forward,
        "num_heads": shape.vision.heads,
        "out_hidden_size": shape.hidden,
        "patch_size": 14 if shape.family == "qwen2_5_vl" else 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    rope: dict[str, Any] = {"rope_type": "default"}
    if shape.family == "qwen3_5":
        text |= {
            "head_dim": 256,
            "full_attention_interval": 4,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": shape.linear_value_heads,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "rope_parameters": rope
            | {
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.25,
                "mrope_section": [11, 11, 10],
                "mrope_interleaved": True,
            },
        }
        vision |= {"num_position_embeddings": 2304}
        return Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=shape.tied)
    if shape.family == "qwen3_vl":
        sections = {"rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
        text |= {"head_dim": 128, "rope_parameters": rope | sections}
        vision |= {"num_position_embeddings": 2304, "deepstack_visual_indexes": list(shape.vision.deepstack)}
        return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=shape.tied)
    text |= {"rope_parameters": rope | {"rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
    vision |= {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=shape.tied)
