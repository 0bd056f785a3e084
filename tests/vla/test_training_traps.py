"""What trainers of this class of model get wrong silently, and where the rest of the tests do not look."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from nsdrive.dataset import open_dataset
from nsdrive.vla.data.encoding import IGNORED, encode
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.model import load_model, load_processor, require_fast_kernels
from nsdrive.vla.tiny import build_tiny


def test_a_gpu_without_the_fast_kernels_is_refused_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers itself falls back to plain torch, several times slower, with a warning at most."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("fla", "causal_conv1d") else present(name, *a)
    )
    with pytest.raises(ValueError, match="pip install flash-linear-attention causal-conv1d"):
        require_fast_kernels("qwen3_5", allow_slow=False)
    require_fast_kernels("qwen3_5", allow_slow=True)
    require_fast_kernels("qwen3_vl", allow_slow=False)  # which has no linear attention


def test_tied_embeddings_are_still_one_tensor_after_saving_and_loading(tiny_folder: Path, tmp_path: Path) -> None:
    model = load_model(tiny_folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1.0)  # as training would change it
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.config.get_text_config().tie_word_embeddings
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    "arch", ["qwen3_5", *(pytest.param(a, marks=pytest.mark.slow) for a in ("qwen3_vl", "qwen2_5_vl"))]
)
def test_what_is_trained_on_begins_where_generation_does(
    arch: str, dataset: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """The stock templates mark no answer, and Qwen3.5's prompt is how its training text begins only without thinking."""
    folder = tiny_folder
    if arch != "qwen3_5":
        folder = tmp_path / arch
        build_tiny(folder, arch=arch)
    processor, rows = load_processor(folder, min_pixels=1024, max_pixels=4096), Rows(open_dataset(dataset), "train")
    asked, told = (encode(processor, rows[0], with_answer=told) for told in (False, True))
    n_prompt = len(asked.input_ids)
    assert torch.equal(told.input_ids[:n_prompt], asked.input_ids)
    assert told.last_prompt == n_prompt - 1
    trained = told.labels != IGNORED
    assert not trained[:n_prompt].any()
    assert trained[n_prompt:-1].all()
    assert processor.tokenizer.decode(told.input_ids[trained]) == rows[0].answer + "<|im_end|>"
    with pytest.raises(ValueError, match="Sample train-0: no answer token is left to train on"):
        encode(processor, replace(rows[0], answer=""), with_answer=True)
