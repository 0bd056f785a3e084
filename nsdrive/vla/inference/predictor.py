"""The engine that is always there: transformers, in this process.

predictor = Predictor.load("out/run/model")                     # on the GPU in bf16, else on the CPU in fp32
predictor.answer([encoded], ["detailed"]).texts
predictor.waypoints([encoded])                                  # of its trajectory head, one forward
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nsdrive.counted import counted
from nsdrive.vla.data.batch import collate, model_inputs
from nsdrive.vla.data.encoding import Encoded
from nsdrive.vla.grammar import PlanGrammar, TokenTables
from nsdrive.vla.inference.drawing import Drawing
from nsdrive.vla.inference.engine import (
    OutOfMemory,
    Said,
    Texts,
    begun_of,
    budget_of,
    count_reasoning,
    until,
    whole_text,
)
from nsdrive.vla.model import load_model, load_processor
from nsdrive.vla.trajectory_head import TrajectoryHead, load_head, read_head
from nsdrive.world.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A loaded model, ready to answer. head: its trajectory head, where it was trained with one."""

    model: Any
    processor: Any
    tables: TokenTables
    device: torch.device
    head: TrajectoryHead | None = None
    clock: bool = True
    queues: bool = False

    @staticmethod
    def load(source: str | Path, *, trust_remote_code: bool = False) -> Predictor:
        """On the GPU in bf16 where there is one, else on the CPU in fp32."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        processor = load_processor(source, trust_remote_code=trust_remote_code)
        head = load_head(source)
        model = load_model(source, dtype=dtype, trust_remote_code=trust_remote_code).to(device).eval()
        width = model.config.get_text_config().hidden_size
        if head is not None and head.shape.hidden != width:
            raise ValueError(f"{source}: its trajectory head reads {head.shape.hidden} numbers, the model has {width}")
        return Predictor(
            model=model,
            processor=processor,
            tables=TokenTables(processor.tokenizer),
            device=device,
            head=None if head is None else head.to(device),
        )

    @property
    def device_type(self) -> str:
        return self.device.type

    @torch.no_grad()  # not inference_mode: a model in training answers too, and tensors made there cannot be trained on
    def answer(
        self,
        questions: Sequence[Encoded],
        levels: Sequence[str],
        *,
        constrained: bool = True,
        max_reasoning_tokens: int | None = None,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> Texts:
        """See `nsdrive.vla.inference.engine.Engine`."""
        from transformers import GenerationConfig

        started_s = time.perf_counter()
        begun = [begun_of(one) for one in questions]
        grammar = PlanGrammar(self.tables, levels, budget_of(max_reasoning_tokens), begun, constrained=constrained)
        drawing = Drawing(end_id=self.tables.end_id, temperature=temperature, seeds=seeds or range(len(questions)))
        batch = collate(questions, self.processor, for_generation=True)
        settings = GenerationConfig(  # not the checkpoint's own: a hub model brings temperatures
            max_new_tokens=grammar.max_new_tokens,
            do_sample=False,
            eos_token_id=self.tables.end_id,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        with within_memory(len(questions)), self._early(batch) as early:
            inputs = model_inputs(batch, self.processor, self.device)
            ids = self.model.generate(**inputs, generation_config=settings, logits_processor=[grammar, drawing])
        new = [until(row, self.tables.end_id) for row in ids[:, inputs["input_ids"].shape[1] :].tolist()]
        times_s, tokenizer = drawing.times_s, self.processor.tokenizer
        likelihoods = drawing.log_likelihoods or [None] * len(new)
        said = []
        for k, (one, row) in enumerate(zip(questions, new, strict=True)):
            n_reasoning = count_reasoning(one, tokenizer, row)
            last = min(len(row), len(times_s) - 1)  # the end mark's step, where there is one
            said.append(
                Said(
                    text=whole_text(one, tokenizer, row),
                    n_tokens=len(row) + 1,
                    n_reasoning_tokens=n_reasoning,
                    seconds=times_s[last] - started_s,
                    reasoning_seconds=times_s[min(n_reasoning, last)] - times_s[0],
                    log_likelihood=likelihoods[k],
                    early_waypoints_ego_m=early.waypoints[k] if early.waypoints is not None else None,
                    early_seconds=early.known_s - started_s if early.waypoints is not None else None,
                )
            )
        return Texts(said=tuple(said))

    @torch.no_grad()
    def waypoints(self, questions: Sequence[Encoded]) -> FloatArray:
        """See `nsdrive.vla.inference.engine.Engine`."""
        if self.head is None:
            raise ValueError(
                "this model has no trajectory head: train one with trajectory_head=regression, or take text"
            )
        batch = collate(questions, self.processor, for_generation=True)
        with within_memory(len(questions)):
            seen = self.model.model(**model_inputs(batch, self.processor, self.device), use_cache=False)
            return self._read_head(seen.last_hidden_state, batch)

    def _read_head(self, hidden: torch.Tensor, batch: dict[str, Any]) -> FloatArray:
        """hidden (B, L, H) of the last layer, at whose prompts' last tokens the head reads."""
        assert self.head is not None
        points: FloatArray = read_head(self.head, hidden, batch).cpu().double().numpy()
        return points

    @contextmanager
    def _early(self, batch: dict[str, Any]) -> Iterator[_Early]:
        """What the head says when the prompt has been read, before the first word: the same forward serves both."""
        early = _Early()
        if self.head is None:
            yield early
            return

        def read(_module: Any, _args: Any, output: Any) -> None:
            if early.waypoints is None:
                early.waypoints, early.known_s = self._read_head(output.last_hidden_state, batch), time.perf_counter()

        hook = self.model.model.register_forward_hook(read)
        try:
            yield early
        finally:
            hook.remove()


@dataclass(kw_only=True, eq=False)
class _Early:
    """waypoints (B, 10, 2), and when they were known."""

    waypoints: FloatArray | None = None
    known_s: float = 0.0


@contextmanager
def within_memory(n_questions: int) -> Iterator[None]:
    """OutOfMemory, one line, where what is asked about so many samples does not fit."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise OutOfMemory(f"The GPU's memory does not suffice for {counted(n_questions, 'sample')} at once") from None
