"""A stand-in for vLLM: the parts of its API that the engine uses, told what to say, writing down what it is asked.

Shapes as of vLLM 0.32: LLM(model, **engine arguments).generate(prompts, sampling_params, use_tqdm=, lora_request=) gives for each
prompt a RequestOutput with `outputs[0].token_ids` and, where logprobs are asked for, `.logprobs`: {token id: Logprob} a step.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

Sayer = Callable[[dict[str, Any], "SamplingParams"], list[int]]


@dataclass
class StructuredOutputsParams:
    regex: str | None = None


@dataclass
class SamplingParams:
    temperature: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    detokenize: bool = True
    logprobs: int | None = None
    structured_outputs: StructuredOutputsParams | None = None


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Recorded:
    """made: the arguments of LLM; calls: of each generate, its prompts, parameters and LoRA request."""

    made: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[list[dict[str, Any]], list[SamplingParams], Any]] = field(default_factory=list)


def install(monkeypatch: pytest.MonkeyPatch, say: Sayer) -> Recorded:
    """`import vllm` finds the stand-in. say: the token ids that answer a prompt."""
    recorded = Recorded()

    class LLM:
        def __init__(self, **arguments: Any) -> None:
            recorded.made = arguments

        def generate(
            self,
            prompts: Sequence[dict[str, Any]],
            sampling_params: Sequence[SamplingParams],
            *,
            use_tqdm: bool,
            lora_request: Any,
        ) -> list[Any]:
            assert len(prompts) == len(sampling_params)
            recorded.calls.append((list(prompts), list(sampling_params), lora_request))
            return [_output(say(*pair), pair[1]) for pair in zip(prompts, sampling_params, strict=True)]

    modules = {
        "vllm": {"LLM": LLM},
        "vllm.sampling_params": {
            "SamplingParams": SamplingParams,
            "StructuredOutputsParams": StructuredOutputsParams,
        },
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
    }
    for name, contents in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        module.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    return recorded


def _output(ids: list[int], parameters: SamplingParams) -> Any:
    ids = ids[: parameters.max_tokens]
    logprobs = None if parameters.logprobs is None else [{i: types.SimpleNamespace(logprob=-0.5)} for i in ids]
    return types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=ids, logprobs=logprobs)])
