"""transformers' Trainer with our loss.

The loss of a step is the sum of the answer tokens' losses over all processes and accumulation steps, divided by the
count of those tokens: one process and eight give the same gradients and the same logged number for one global batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer

from nsdrive.vla.data.batch import Collator, model_inputs
from nsdrive.vla.data.encoding import IGNORED
from nsdrive.vla.training.flops import Work, work_of


class AnswerTrainer(Trainer):
    """Trains on batches of `data.collate`: loss on the answer tokens only, logits computed on their rows only."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole global batch

    def __init__(
        self,
        *,
        data_collator: Collator,
        groups: Callable[[Any], list[dict[str, Any]]] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(data_collator=data_collator, **arguments)
        self.processor = data_collator.processor
        self.groups = groups
        self.remove_callback(PrinterCallback)  # LossLog prints
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the global batch's tokens, num_items_in_batch
        self.tokens_of_step = 0
        self.work_of_step = Work()  # of this process
        self.parts_of_step: dict[str, float | None] = {}  # reasoning_loss, planning_loss, head_loss where there are
        self.waited_s = 0.0

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW over `groups`, where they were given: the stock one knows no rate of the vision tower's own."""
        if self.optimizer is None and self.groups is not None:
            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model if model is None else model)
            self.optimizer = kind(self.groups(self.model if model is None else model), **arguments)
        return super().create_optimizer(model)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        started_s = time.monotonic()
        batches, n_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waited_s += time.monotonic() - started_s
        self.tokens_of_step = int(n_tokens) if n_tokens is not None else 0
        self.work_of_step = work_of(batches)
        return batches, n_tokens

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This process's share of the step's loss; raises ValueError naming the samples where it is not finite."""
        labels, sample_ids = inputs["labels"], inputs["sample_ids"]
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)  # token t is predicted at t - 1
        is_answer = targets != IGNORED
        batch = model_inputs(inputs, self.processor)
        outputs = model(**batch, logits_to_keep=is_answer, use_cache=False)
        summed = cross_entropy(outputs.logits.float(), targets[is_answer], reduction="sum")
        if not torch.isfinite(summed):
            raise ValueError(
                f"The loss became {summed.item()} at step {self.state.global_step + 1}, in the samples "
                f"{', '.join(sample_ids)}. Lower learning_rate, or look at these samples, then train again"
            )
        # processes average their gradients, so each one's share is scaled by how many there are
        loss = summed * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss
