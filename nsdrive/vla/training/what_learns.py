"""Which of a model's weights learn, through LoRA or themselves, and at what rate.

model = choose_what_learns(model, config, source)
optimizer = AdamW(parameter_groups(model, config), lr=config.learning_rate)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nsdrive.vla.training.config import TrainConfig

_MIX = "q_proj|k_proj|v_proj|o_proj|in_proj_qkv|in_proj_z|in_proj_a|in_proj_b|out_proj"  # attention of both kinds
_FEED = "gate_proj|up_proj|down_proj"
_VISION = (
    r".*\.visual\.(blocks|merger|deepstack_merger_list)\..*"
    r"(qkv|proj|gate_proj|up_proj|down_proj|linear_fc1|linear_fc2|mlp\.0|mlp\.2)"
)
LORA_TARGETS = {
    "language": rf".*language_model.*\.({_MIX}|{_FEED})",
    "attention": rf".*language_model.*\.({_MIX})",
    "all": rf".*language_model.*\.({_MIX}|{_FEED})|{_VISION}",
}
_MERGERS = (".visual.merger.", ".visual.deepstack_merger_list.")


def choose_what_learns(model: Any, config: TrainConfig, source: str) -> Any:
    """The model in training mode: frozen where it shall not learn, with LoRA around it where that is the method."""
    model.train()
    if config.freeze_vision:
        for name, parameter in model.named_parameters():
            if ".visual." in name:
                parameter.requires_grad_(config.train_merger and any(part in name for part in _MERGERS))
    return _with_lora(model, config, source) if config.method == "lora" else model


def parameter_groups(model: Any, config: TrainConfig) -> list[dict[str, Any]]:
    """The trained weights as AdamW takes them: biases and norms without weight decay, vision at its own rate if it has one."""
    own_rate = config.vision_learning_rate
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            at_own_rate = own_rate is not None and ".visual." in name
            is_flat = getattr(parameter, "ds_shape", parameter.shape)  # under ZeRO-3 the shape at hand is empty
            groups.setdefault((at_own_rate, len(is_flat) < 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_vector else config.weight_decay,
            "lr": own_rate if at_own_rate else config.learning_rate,
        }
        for (at_own_rate, is_vector), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def lora_pattern(targets: str) -> str:
    """The regular expression of a preset, or the one that was given."""
    pattern = LORA_TARGETS.get(targets, targets)
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"lora_targets is none of {', '.join(LORA_TARGETS)}, nor a regular expression ({error})"
        ) from None
    return pattern


def _with_lora(model: Any, config: TrainConfig, source: str) -> Any:
    from peft import LoraConfig, get_peft_model

    pattern = lora_pattern(config.lora_targets)
    if config.freeze_vision and config.lora_targets == "all":
        raise ValueError(
            "lora_targets=all adapts the vision tower, which freeze_vision=true keeps as it is: choose one"
        )
    names = [name for name, _ in model.named_modules()]
    if not any(re.fullmatch(pattern, name) for name in names):
        raise ValueError(
            f"lora_targets '{config.lora_targets}' fits no module of the model, such as {_some_linear(model)}"
        )
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=pattern,
        task_type="CAUSAL_LM",
    )
    # no enable_input_require_grads: checkpointing that is not re-entrant does without, and it would have the gradient go
    # through a frozen vision tower for nothing
    learning = get_peft_model(model, lora)
    # what adapter_config.json says: a relative path would be another folder, or a hub id, where the adapter is used. Set here,
    # for peft takes the name that the model was loaded by.
    learning.active_peft_config.base_model_name_or_path = (
        str(Path(source).resolve()) if Path(source).is_dir() else source
    )
    return learning


def _some_linear(model: Any) -> str:
    from torch import nn

    return next(name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "layers" in name)
