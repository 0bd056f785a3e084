"""The arithmetic of a step by our formula, against torch's own count of what a step really asks for."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from nsdrive.vla.forecast.flops import Work, costs_of, peak_flops, work_of

PATCHES, TEXT, ANSWER = 256, 192, 64  # one picture of 16 x 16 patches, 64 tokens of the text


@pytest.fixture(scope="module")
def model() -> Qwen3VLForConditionalGeneration:
    """As wide as it is deep, so that no kind of weight hides behind another."""
    text = {
        "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "rope_parameters": {"rope_type": "default", "mrope_section": [6, 5, 5]},
    }  # fmt: skip
    vision = {
        "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "out_hidden_size": 128,
        "num_position_embeddings": 256, "deepstack_visual_indexes": [1],
    }  # fmt: skip
    config = Qwen3VLConfig(text_config=text, vision_config=vision, image_token_id=500)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(config)


def counted(model: Qwen3VLForConditionalGeneration) -> tuple[float, Work]:
    """FLOPs of one training step by torch's counter, and the work in it."""
    length = TEXT + PATCHES // 4
    ids = torch.randint(0, 400, (1, length))
    ids[0, :64] = 500
    labels = torch.full((1, length), -100)
    labels[0, -ANSWER:] = ids[0, -ANSWER:]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == 500).long(),
        "image_grid_thw": torch.tensor([[1, 16, 16]]),
    }
    patches = torch.rand(PATCHES, 3 * 2 * 16 * 16)
    with FlopCounterMode(display=False) as counter:
        logits = model(**batch, pixel_values=patches, logits_to_keep=ANSWER, use_cache=False).logits
        logits.float().logsumexp(-1).sum().backward()
    model.zero_grad()
    return float(counter.get_total_flops()), work_of([{**batch, "labels": labels}])


def test_the_formula_agrees_with_torchs_count_of_a_step(model: Qwen3VLForConditionalGeneration) -> None:
    found, work = counted(model)
    assert work == Work(
        tokens=256, squared_tokens=256**2, answer_tokens=ANSWER, patches=PATCHES, squared_patches=PATCHES**2
    )
    costs = costs_of(model)
    causal_half = costs.per_squared_token * work.squared_tokens  # eager attention computes what a mask throws away
    of_pixels = 2 * PATCHES * 3 * 2 * 16 * 16 * 128  # nobody asks for the gradient of a picture
    assert costs.flops(work) + causal_half - of_pixels == pytest.approx(found, rel=0.01)


def test_weights_that_do_not_learn_cost_less(model: Qwen3VLForConditionalGeneration) -> None:
    learning = costs_of(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".visual." not in name)
    found, work = counted(model)
    frozen = costs_of(model)
    model.requires_grad_(True)
    assert frozen.per_patch == pytest.approx(learning.per_patch / 3, rel=1e-6), "forward only"
    assert frozen.per_token == learning.per_token
    assert frozen.per_answer_token == learning.per_answer_token
    model.lm_head.weight.requires_grad_(False)
    still = costs_of(model)
    model.lm_head.weight.requires_grad_(True)
    assert still.per_answer_token == pytest.approx(learning.per_answer_token * 2 / 3), "as under LoRA"
    causal_half = frozen.per_squared_token * work.squared_tokens
    assert frozen.flops(work) + causal_half == pytest.approx(found, rel=0.01)


def test_the_work_of_packed_and_of_padded_samples_is_the_same() -> None:
    labels = torch.tensor([[-100, 5, 5, -100], [-100, -100, 5, 5]])
    padded = {"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), "labels": labels}
    packed = {"cu_seq_lens_q": torch.tensor([0, 3, 7], dtype=torch.int32), "labels": labels.flatten()[None]}
    assert work_of([padded]) == work_of([packed]) == Work(tokens=7, squared_tokens=25, answer_tokens=4)
    assert work_of([padded, packed]).tokens == 14


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
