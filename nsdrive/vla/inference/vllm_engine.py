"""The engine for many samples on GPUs: vLLM, where it is installed (it pins its own torch and transformers).

    engine = VllmEngine.load("out/run/model", tensor_parallel=1, batch_size=256)
    engine.answer([encoded], ["detailed"]).texts

It is asked in tokens, by our own encoding: the prompt with one mark for each picture, and the answer's beginning. It is given
each picture as our encoding has resized it, so that its own resizing leaves every pixel as it was in training. What several
questions share (the same pictures, as for the candidates of one question) is computed once (prefix caching).

The grammar is a regular expression whose free text has no bound; an answer that has spent its reasoning's budget is ended
there and asked a second time, for its plan.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from nsdrive.vla.data.encoding import Encoded
from nsdrive.vla.grammar import (
    BRIDGE,
    OPEN_PLAN,
    Begun,
    TokenTables,
    literally,
    most_tokens,
    over_budget,
    rest_of_answer,
)
from nsdrive.vla.inference.engine import Said, Texts, begun_of, budget_of, count_reasoning, until, whole_text
from nsdrive.vla.model import adapter_base, adapter_config, load_processor
from nsdrive.vla.question_form import read_form
from nsdrive.world.types import FloatArray

INSTALL = "python -m venv vllm && vllm/bin/pip install vllm && vllm/bin/pip install --no-deps PATH_OF_NSDRIVE"
MAX_CAMERAS = 8  # of our rigs
TEXT_TOKENS = 8192  # of a prompt's words and the answer's beginning, chosen by us: MAX_PREFIX letters are under 6,000
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM 0.32: max_lora_rank is one of these


@dataclass(frozen=True, kw_only=True, eq=False)
class VllmEngine:
    """A model in vLLM. lora: the request that names the adapter, None for a model of one piece."""

    llm: Any
    processor: Any
    tables: TokenTables
    lora: Any = None
    clock: bool = False
    queues: bool = True
    device_type: str = "vllm"

    @staticmethod
    def load(
        source: str | Path,
        *,
        tensor_parallel: int = 1,
        batch_size: int | None = None,
        trust_remote_code: bool = False,
    ) -> VllmEngine:
        """In bf16. tensor_parallel: GPUs that share the model; batch_size: the most sequences under way at once.

        ValueError where vLLM is not there or refuses the model.
        """
        require_vllm()
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        processor = load_processor(source, trust_remote_code=trust_remote_code)
        images, form = processor.image_processor, read_form(source)
        cameras = MAX_CAMERAS if form is None else len(form.rig.cameras)
        image_tokens = images.size["longest_edge"] // (images.patch_size * images.merge_size) ** 2
        how: dict[str, Any] = {}
        model, lora = str(source), None
        if (Path(source) / "adapter_config.json").is_file():
            model, lora = str(adapter_base(Path(source))), _lora(Path(source))
            how = {"enable_lora": True, "max_lora_rank": _lora_rank(Path(source))}
        if batch_size is not None:
            how["max_num_seqs"] = batch_size
        if model != str(source):  # the adapter's folder has the tokenizer and the pixel budget of training
            how["tokenizer"] = str(source) if (Path(source) / "tokenizer.json").is_file() else model
        room = cameras * image_tokens + TEXT_TOKENS + most_tokens("detailed", Begun())
        try:
            llm = importlib.import_module("vllm").LLM(
                model=model,
                dtype="bfloat16",
                seed=0,
                max_model_len=min(room, _most_positions(model, trust_remote_code)),
                limit_mm_per_prompt={"image": cameras, "video": 0},
                mm_processor_kwargs={"size": dict(images.size)},
                tensor_parallel_size=tensor_parallel,
                enable_prefix_caching=True,
                generation_config="vllm",  # not the checkpoint's own: a hub model brings temperatures
                trust_remote_code=trust_remote_code,
                **how,
            )
        except (ValueError, RuntimeError, OSError) as error:
            words = " ".join(str(error).split())[:400]
            raise ValueError(f"vLLM does not load {source}: {words}") from None
        return VllmEngine(llm=llm, processor=processor, tables=TokenTables(processor.tokenizer), lora=lora)

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
        """See `nsdrive.vla.inference.engine.Engine`. log_likelihood is the model's own, before the grammar and at temperature 1."""
        budget, own = budget_of(max_reasoning_tokens), list(seeds or range(len(questions)))
        first = [
            _Request(
                ids=self._prompt(one),
                images=self._pictures(one),
                regex=_regex(level, begun_of(one), constrained=constrained),
                max_tokens=most_tokens(level, begun_of(one), budget),
                seed=seed,
            )
            for one, level, seed in zip(questions, levels, own, strict=True)
        ]
        made = self._generate(first, temperature)
        if constrained:
            made = self._within_budget(questions, levels, budget, first, made, temperature)
        tokenizer = self.processor.tokenizer
        return Texts(
            said=tuple(
                Said(
                    text=whole_text(one, tokenizer, out.ids),
                    n_tokens=out.n_tokens,
                    n_reasoning_tokens=count_reasoning(one, tokenizer, out.ids),
                    log_likelihood=out.log_likelihood if temperature > 0.0 else None,
                )
                for one, out in zip(questions, made, strict=True)
            )
        )

    def waypoints(self, questions: Sequence[Encoded]) -> FloatArray:
        """It has no way to a model's hidden states."""
        raise ValueError("the trajectory head reads hidden states, which vLLM does not give: --engine transformers")

    def _within_budget(
        self,
        questions: Sequence[Encoded],
        levels: Sequence[str],
        budget: Any,
        requests: Sequence[_Request],
        made: Sequence[_Made],
        temperature: float,
    ) -> list[_Made]:
        """The answers, those that reason for longer than they may ended there and gone on with."""
        cuts = [
            over_budget(self.tables, level, begun_of(one), budget, out.ids)
            for one, level, out in zip(questions, levels, made, strict=True)
        ]
        late = [k for k, cut in enumerate(cuts) if cut is not None]
        plan = rest_of_answer("none", Begun(prefix=OPEN_PLAN))
        most = most_tokens("none", Begun()) + len(BRIDGE)
        again = [
            replace(
                requests[k],
                ids=requests[k].ids + made[k].ids[: cuts[k]],
                regex=literally(BRIDGE) + plan,
                max_tokens=most,
            )
            for k in late
        ]
        result = list(made)
        for k, out in zip(late, self._generate(again, temperature) if again else [], strict=True):
            kept = made[k].ids[: cuts[k]]
            result[k] = _Made(
                ids=kept + out.ids,
                n_tokens=made[k].n_tokens + out.n_tokens,  # those beyond the budget were generated, too
                log_likelihood=_sum([*made[k].token_likelihoods[: cuts[k]], out.log_likelihood]),
                token_likelihoods=[],
            )
        return result

    def _generate(self, requests: Sequence[_Request], temperature: float) -> list[_Made]:
        sampling = importlib.import_module("vllm.sampling_params")
        parameters = [
            sampling.SamplingParams(
                temperature=temperature,
                seed=one.seed if temperature > 0.0 else None,
                max_tokens=one.max_tokens,
                stop_token_ids=[self.tables.end_id],
                detokenize=False,
                logprobs=0 if temperature > 0.0 else None,  # of the token that was drawn, no others
                structured_outputs=None if one.regex is None else sampling.StructuredOutputsParams(regex=one.regex),
            )
            for one in requests
        ]
        prompts = [
            {"prompt_token_ids": one.ids} | ({"multi_modal_data": {"image": one.images}} if one.images else {})
            for one in requests
        ]
        try:
            outputs = self.llm.generate(prompts, parameters, use_tqdm=False, lora_request=self.lora)
        except ValueError as error:
            words = " ".join(str(error).split())[:400]
            raise ValueError(f"vLLM refuses a question: {words}") from None
        return [self._made(output.outputs[0]) for output in outputs]

    def _made(self, completion: Any) -> _Made:
        ids = until(completion.token_ids, self.tables.end_id)
        each = [
            float(step[token].logprob)
            for token, step in zip(completion.token_ids, completion.logprobs or (), strict=False)
        ]
        return _Made(ids=ids, n_tokens=len(completion.token_ids), log_likelihood=_sum(each), token_likelihoods=each)

    def _prompt(self, question: Encoded) -> list[int]:
        """Its tokens, the many marks of each picture as the one that vLLM makes as many of again."""
        mark, ids = self.processor.image_token_id, question.input_ids.tolist()
        return [token for k, token in enumerate(ids) if token != mark or k == 0 or ids[k - 1] != mark]

    def _pictures(self, question: Encoded) -> list[Image.Image]:
        return pictures(question, self.processor.image_processor)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    ids: list[int]
    images: list[Image.Image]
    regex: str | None
    max_tokens: int
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """ids: without the end mark; n_tokens: with it. token_likelihoods: of each, none where they were not asked for."""

    ids: list[int]
    n_tokens: int
    log_likelihood: float
    token_likelihoods: list[float]


def pictures(question: Encoded, image_processor: Any) -> list[Image.Image]:
    """The pictures whose patches these are, pixel by pixel: `nsdrive.vla.data.images.image_patches` the other way round."""
    if question.patches is None or question.grid is None:
        return []
    patch, merge = image_processor.patch_size, image_processor.merge_size
    images, at = [], 0
    for _, rows, columns in question.grid.tolist():
        blocks = question.patches[at : at + rows * columns]
        at += rows * columns
        blocks = blocks.view(rows // merge, columns // merge, merge, merge, 3, patch, patch)
        pixels = blocks.permute(0, 2, 5, 1, 3, 6, 4).reshape(rows * patch, columns * patch, 3)
        images.append(Image.fromarray(pixels.contiguous().numpy()))
    return images


def require_vllm() -> None:
    """ValueError, one line with the command, where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            f"--engine vllm needs vLLM, in an environment of its own (it pins torch and transformers): {INSTALL}"
        )


def _regex(level: str, begun: Begun, *, constrained: bool) -> str | None:
    if constrained:
        return rest_of_answer(level, begun)
    return literally(begun.unsaid) + r"[^\x00]*" if begun.unsaid else None  # what is unsaid is said, then anything


def _sum(likelihoods: Sequence[float]) -> float:
    return round(sum(likelihoods), 3)


def _most_positions(model: str, trust_remote_code: bool) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    return int(config.get_text_config().max_position_embeddings)


def _lora(folder: Path) -> Any:
    return importlib.import_module("vllm.lora.request").LoRARequest("adapter", 1, str(folder.resolve()))


def _lora_rank(folder: Path) -> int:
    """The least rank that vLLM can make room for and the adapter fits in."""
    rank = adapter_config(folder).get("r", 16)
    fitting = [one for one in LORA_RANKS if one >= int(rank)]
    if not fitting:
        raise ValueError(f"{folder}: vLLM takes adapters up to rank {LORA_RANKS[-1]}, this one has {rank}")
    return fitting[0]
