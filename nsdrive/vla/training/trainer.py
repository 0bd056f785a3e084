"""transformers' Trainer with our loss.

The loss of a step is the sum of the answer tokens' losses over all processes and accumulation steps, divided by the
count of those tokens, and so for its other parts (`losses`): one process and eight give the same gradients and the same
logged numbers for one global batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer

from nsdrive.vla.data.batch import Collator, model_inputs
from nsdrive.vla.data.encoding import IGNORED
from nsdrive.vla.forecast.flops import Work, work_of
from nsdrive.vla.training.loader_workers import deaf_to_stops
from nsdrive.vla.training.losses import Objective, Parts, Totals, only_rows, reading_head, targets_of
from nsdrive.vla.training.processes import gather
from nsdrive.vla.trajectory_head import TrajectoryHead, head_of, head_weights, load_head, save_head, without_head

NAMED = 16  # samples that an error names at the most, chosen by us


class AnswerTrainer(Trainer):
    """Trains on batches of `data.collate`: loss on the answer tokens only, logits computed on their rows only."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole global batch

    def __init__(
        self,
        *,
        data_collator: Collator,
        groups: Callable[[Any], list[dict[str, Any]]] | None = None,
        objective: Objective | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(data_collator=data_collator, **arguments)
        self.processor = data_collator.processor
        self.objective: Objective = Objective(self.processor.tokenizer) if objective is None else objective
        self._head: TrajectoryHead | None = head_of(self.model)
        self._totals: Totals | None = None  # of the step's global batch
        self._sums = torch.zeros(3)  # of this process's micro-batches of the step: reasoning, planning, head
        self._n_left = 0  # micro-batches of the step
        self._samples_of_step: list[str] = []  # of this process
        self.groups = groups
        self.weight_decays: list[float] = []  # as they began, of the groups that DeepSpeed kept: those with weights
        self.remove_callback(PrinterCallback)  # LossLog prints
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the global batch's tokens, num_items_in_batch
        self.tokens_of_step = 0
        self.work_of_step = Work()  # of this process
        self.parts_of_step: dict[str, float | None] = {}  # reasoning_loss, planning_loss, head_loss where there are
        self.waited_s = 0.0

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW over `groups`, where they were given: the stock one knows no rate of the vision tower's own."""
        if self.optimizer is None and self.groups is not None:
            given: Any = self.model if model is None else model
            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, given)
            self.optimizer = kind(self.groups(given), **arguments)
        optimizer = super().create_optimizer(model)
        self.weight_decays = [group["weight_decay"] for group in optimizer.param_groups if group["params"]]
        return optimizer

    def get_train_dataloader(self) -> Any:
        """Its workers leave a stop to their process: a signal to the whole group would else end them in the midst of a step."""
        loader = super().get_train_dataloader()
        inside = getattr(loader, "base_dataloader", loader)  # accelerate wraps it
        inside.worker_init_fn = partial(deaf_to_stops, first=inside.worker_init_fn)
        return loader

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        started_s = time.monotonic()
        batches, n_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waited_s += time.monotonic() - started_s
        self.tokens_of_step = int(n_tokens) if n_tokens is not None else 0
        mine = [self.objective.totals(batch) for batch in batches]
        if mine:
            self._totals = sum(mine[1:], start=mine[0]).over(self._sum_over_processes)
        self._sums, self._n_left = torch.zeros(3, device=device), len(batches)
        self.work_of_step = work_of(batches)
        self._samples_of_step = [name for batch in batches for name in batch["sample_ids"]]
        return batches, n_tokens

    def _prepare_input(self, data: Any) -> Any:
        """To the device as it is: under DeepSpeed the stock one rounds every float to bf16, waypoints beyond 32 m to 0.25 m."""
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This process's share of the step's loss; raises ValueError naming the samples where it is not finite."""
        assert self._totals is not None
        inside, is_answer = model_inside(model), targets_of(inputs) != IGNORED
        with reading_head(inside, self._head, inputs) as head_loss, only_rows(inside, is_answer):
            outputs = model(**model_inputs(inputs, self.processor), use_cache=False)
        parts = self.objective.parts(outputs.logits, head_loss[0] if head_loss else None, inputs)
        share = self.objective.loss(parts, self._totals)
        if not torch.isfinite(share):
            raise ValueError(
                f"The loss became {share.item()} at step {self.state.global_step + 1}, in the samples "
                f"{', '.join(inputs['sample_ids'])}. Lower learning_rate, or look at these samples, then train again"
            )
        self._note(parts)
        # processes average their gradients, so each one's share is scaled by how many there are
        loss = share * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Of all processes; raises ValueError naming the step's samples where it is not finite. No step of it has been taken
        then, but by DeepSpeed, and nothing of it is ever saved."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(norm):
            names = [name for mine in gather(self._samples_of_step) for name in mine]
            others = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
            raise ValueError(
                f"The gradient became {float(norm)} at step {self.state.global_step + 1}, in one of the samples "
                f"{', '.join(names[:NAMED])}{others}. Lower learning_rate, or look at these samples, then train again"
            )
        return norm

    def _note(self, parts: Parts) -> None:
        """Add up the step's parts; with its last micro-batch they are those of all processes."""
        head = torch.zeros(()) if parts.head is None else parts.head.detach()
        self._sums += torch.stack([parts.reasoning, parts.planning, head.to(parts.planning.device)])
        self._n_left -= 1
        if self._n_left or self._totals is None:
            return
        reasoning, planning, head_sum = self._sum_over_processes(self._sums.tolist())
        self.parts_of_step = {
            "reasoning_loss": _mean(reasoning, self._totals.reasoning),
            "planning_loss": _mean(planning, self._totals.planning),
            "head_loss": None if self._head is None else _mean(head_sum, self._totals.waypoints),
        }

    def _sum_over_processes(self, values: list[float]) -> list[float]:
        if self.accelerator.num_processes == 1:
            return values
        mine = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(mine)
        return [float(value) for value in mine]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The stock model's weights, as the Trainer writes them, and the trajectory head's in a folder beside them."""
        if state_dict is not None and self.accelerator.unwrap_model(self.model).config.tie_word_embeddings:
            # what DeepSpeed gathers holds a tied output layer a second time, which no stock checkpoint does
            state_dict = {name: weight for name, weight in state_dict.items() if name != "lm_head.weight"}
        if self._head is None:
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        if self.args.should_save:
            save_head(self._head, folder, None if state_dict is None else head_weights(state_dict))
        weights = self.accelerator.unwrap_model(self.model).state_dict() if state_dict is None else state_dict
        super()._save(str(folder), without_head(weights))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._head is not None and (saved := load_head(resume_from_checkpoint)) is not None:
            self._head.load_state_dict(saved.state_dict())


def let_go(trainer: AnswerTrainer) -> None:
    """Free the memory of all that trained: this is the end of the trainer.

    After this a model can be loaded by one process: ZeRO-3 would else have every process take part in it.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    learned: list[Any] = list(model_inside(trainer.model).parameters())
    held: list[Any] = [learned, [getattr(one, "ds_tensor", None) for one in learned], trainer.optimizer]
    if trainer.is_deepspeed_enabled:
        held.append(vars(trainer.model_wrapped.optimizer))
    tensors = [one for one in held for one in _tensors_in(one)]
    trainer.accelerator.free_memory()
    unset_hf_deepspeed_config()
    # DeepSpeed 0.19 leaves references to a model that it has cut up: so they are made to hold nothing
    for one in tensors:
        with suppress(RuntimeError):  # mapped from a file
            one.untyped_storage().resize_(0)


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.optim.Optimizer):
        yield from _tensors_in(value.state)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors_in(one)


def model_inside(model: Any) -> Any:
    """Without what DDP and DeepSpeed put around it."""
    while hasattr(model, "module"):
        model = model.module
    return model


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None
