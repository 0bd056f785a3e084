"""The fast kernels that a GPU run can use, and what is said where they are missing.

require_kernels("qwen3_5", config)                   # ValueError with the install line, before weights are loaded
use_liger(model, "qwen3_5", config)                  # Liger's fused norms, rotary embedding and SwiGLU, where installed
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any

import torch

from nsdrive.vla.model import missing_linear_kernels
from nsdrive.vla.training.config import TrainConfig

PACKAGES = {"flash_attn": "flash-attn", "liger_kernel": "liger-kernel"}  # module: what pip calls it
LIGER = {family: f"apply_liger_kernel_to_{family}" for family in ("qwen3_5", "qwen3_vl", "qwen2_5_vl")}


def require_kernels(family: str, config: TrainConfig) -> None:
    """ValueError naming what is missing and how to install it. On a CPU there is nothing to miss but what was asked for."""
    wanted = ["flash_attn"] if config.attention.startswith("flash_attention") else []
    if config.attention.startswith("flash_attention") and not torch.cuda.is_available():
        raise ValueError(f"attention={config.attention} needs a GPU: take attention=sdpa here")
    if torch.cuda.is_available() and config.kernels == "require" and family in LIGER:
        wanted.append("liger_kernel")
    may_be_slow = config.allow_slow_kernels or config.kernels == "off"
    missing = [] if may_be_slow else missing_linear_kernels(family)
    missing += [PACKAGES[name] for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        instead = {"flash-attn": "attention=sdpa", "liger-kernel": "kernels=auto"}
        ways = " or ".join(dict.fromkeys(instead.get(name, "kernels=off, several times slower") for name in missing))
        raise ValueError(f"This run needs {' and '.join(missing)}: pip install {' '.join(missing)} (or set {ways})")


def use_liger(model: Any, family: str, config: TrainConfig) -> bool:
    """Whether Liger's kernels were put into `model`. Its losses are not used: ours sees the answer's tokens only."""
    if config.kernels == "off" or not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None:
        return False
    put_in = getattr(importlib.import_module("liger_kernel.transformers"), LIGER.get(family, ""), None)
    if put_in is None:
        if config.kernels == "require":
            raise ValueError(f"The installed liger-kernel has no kernels for {family}: pip install -U liger-kernel")
        return False
    wanted = {
        "rope": True,
        "rms_norm": True,
        "layer_norm": True,
        "swiglu": True,
        "cross_entropy": False,
        "fused_linear_cross_entropy": False,
        "model": model,
    }
    known = inspect.signature(put_in).parameters
    put_in(**{name: value for name, value in wanted.items() if name in known})
    return True
