"""What the answerer asks of a model, whichever library runs it.

    engine = load_engine("out/run/model")                       # transformers; on the GPU where there is one
    engine = load_engine("out/run/model", engine="vllm", tensor_parallel=2)
    said = engine.answer([encode(engine.processor, row, with_answer=False)], [row.level]).said[0]
    said.text, said.n_tokens, said.n_reasoning_tokens

Every engine takes the same encoded questions: prompt, pictures and the answer's beginning in the tokens of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nsdrive.config import did_you_mean
from nsdrive.vla.data.encoding import Encoded
from nsdrive.vla.grammar import OPEN_PLAN, OPEN_REASONING, REASONING_BUDGET, Begun
from nsdrive.vla.model import model_type, quiet_libraries, require_fast_kernels
from nsdrive.vla.question_form import model_folder
from nsdrive.world.types import FloatArray

ENGINES = ("transformers", "vllm")


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer.

    text: the whole of it, with the beginning that it was given. n_tokens: generated, the end mark included;
    n_reasoning_tokens: of these, before the plan. seconds: from the batch's start to this answer's last token;
    reasoning_seconds: of these, from its first token to the plan's first; both 0 where the engine has no clock per row.
    log_likelihood: of the generated tokens, None where nothing was drawn. early_waypoints_ego_m (10, 2): of the trajectory
    head, known early_seconds after the batch's start; None without a head.
    """

    text: str
    n_tokens: int = 0
    n_reasoning_tokens: int = 0
    seconds: float = 0.0
    reasoning_seconds: float = 0.0
    log_likelihood: float | None = None
    early_waypoints_ego_m: FloatArray | None = None
    early_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The answers to a batch of questions, in order."""

    said: tuple[Said, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(one.text for one in self.said)

    @property
    def n_tokens(self) -> int:
        """Generated for all of them together."""
        return sum(one.n_tokens for one in self.said)


class OutOfMemory(ValueError):
    """The GPU's memory does not suffice for so many at once; it may for fewer."""


class Engine(Protocol):
    """clock: whether it knows when each answer's tokens came. queues: whether it takes any number of questions at once and
    batches them itself."""

    @property
    def processor(self) -> Any: ...

    @property
    def clock(self) -> bool: ...

    @property
    def queues(self) -> bool: ...

    @property
    def device_type(self) -> str: ...

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
        """The whole answers, the likeliest tokens at temperature 0, else drawn: each by its own seed, whatever else is in its
        batch. constrained: under the grammar of an answer. max_reasoning_tokens: None takes the trace level's own budget.

        OutOfMemory where the memory does not suffice, another ValueError for a beginning that the grammar cannot follow.
        """
        ...

    def waypoints(self, questions: Sequence[Encoded]) -> FloatArray:
        """(B, 10, 2) waypoints of the trajectory head, ego frame, in one forward.

        OutOfMemory where the memory does not suffice, another ValueError for a model without a head.
        """
        ...


def load_engine(
    source: str | Path,
    *,
    engine: str = "transformers",
    tensor_parallel: int = 1,
    batch_size: int | None = None,
    trust_remote_code: bool = False,
    allow_slow_kernels: bool = False,
) -> Engine:
    """A model from a folder, a run's too, or hub id, its libraries kept quiet.

    tensor_parallel: GPUs that share one copy of the model, and batch_size, the most answers under way at once: for vLLM.
    ValueError or FileNotFoundError for a model that cannot be loaded so, before its weights are read.
    """
    check_engine(engine, tensor_parallel=tensor_parallel)
    quiet_libraries()
    source = model_folder(str(source))
    kind = model_type(source, trust_remote_code=trust_remote_code)
    if engine == "vllm":
        from nsdrive.vla.inference.vllm_engine import VllmEngine

        return VllmEngine.load(
            source, tensor_parallel=tensor_parallel, batch_size=batch_size, trust_remote_code=trust_remote_code
        )
    from nsdrive.vla.inference.predictor import Predictor

    require_fast_kernels(kind, allow_slow=allow_slow_kernels)
    return Predictor.load(source, trust_remote_code=trust_remote_code)


def check_engine(engine: str, *, tensor_parallel: int = 1) -> None:
    """ValueError, one line, for an engine that is not known or not installed, or asked for what it cannot do."""
    if engine not in ENGINES:
        raise ValueError(f"No engine '{engine}'. {did_you_mean(engine, ENGINES)}")
    if tensor_parallel < 1:
        raise ValueError(f"--tensor-parallel must be at least 1, got {tensor_parallel}")
    if engine == "vllm":
        from nsdrive.vla.inference.vllm_engine import require_vllm

        require_vllm()
    elif tensor_parallel > 1:
        raise ValueError(
            "--tensor-parallel is of --engine vllm; transformers runs a whole copy on each GPU: --workers N"
        )


def budget_of(max_reasoning_tokens: int | None) -> Mapping[str, int]:
    """Tokens of free text, by trace level."""
    return REASONING_BUDGET if max_reasoning_tokens is None else dict.fromkeys(REASONING_BUDGET, max_reasoning_tokens)


def begun_of(question: Encoded) -> Begun:
    return Begun(prefix=question.prefix, unsaid=question.unsaid, n_tokens=question.n_prefix)


def whole_text(question: Encoded, tokenizer: Any, ids: Sequence[int]) -> str:
    """An answer with its beginning; what was unsaid of it has been said."""
    return question.prefix.removesuffix(question.unsaid) + tokenizer.decode(ids, skip_special_tokens=True)


def until(ids: Sequence[int], end_id: int) -> list[int]:
    """The ids before the end mark."""
    found = list(ids)
    return found[: found.index(end_id)] if end_id in found else found


def count_reasoning(question: Encoded, tokenizer: Any, ids: Sequence[int]) -> int:
    """How many of an answer's generated tokens come before its plan's first number: 0 where it does not reason."""
    said = question.prefix.removesuffix(question.unsaid)
    if OPEN_PLAN in question.prefix or OPEN_REASONING not in whole_text(question, tokenizer, ids):
        return 0
    low, high = 0, len(ids)  # the least count whose text opens the plan; all, where none does
    while low < high:
        middle = (low + high) // 2
        if OPEN_PLAN in said + tokenizer.decode(ids[:middle], skip_special_tokens=True):
            high = middle
        else:
            low = middle + 1
    return low
