"""ADE@3s and miss rate@3s while a model trains: on the same few samples of the validation split, every so many steps.

    {"step": 200, "samples_seen": 1600, "what": "text", "ADE@3s": 0.91, "miss_rate@3s": 0.09, "n": 64, "failed": 0, "seconds": 31.2}

"text": the waypoints that the model writes, greedily and under the grammar, as `nsdrive predict` has it write, but that a
reasoning half as long again as the longest label's is cut off; "head": those of its trajectory head, where it has one, on
HEAD_TIMES as many samples, for they cost one forward. Both count strictly, as an evaluation does: an answer that cannot be
read, or a sample that cannot be asked, is 10 m off.

Which samples is a function of the split alone, so that the runs of one data set can be compared. Looking leaves no trace: a
training with and without it gives the same weights, to the bit. Every process answers its share.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from nsdrive.dataset import PERCEPTION, json_line, write_atomically
from nsdrive.vla.data.encoding import AFTER_REASONING, Encoded, encode
from nsdrive.vla.data.rows import Row
from nsdrive.vla.data.shards import open_rows
from nsdrive.vla.displacement import average_m, displacements_m, missed, usable
from nsdrive.vla.grammar import TokenTables
from nsdrive.vla.inference.engine import OutOfMemory
from nsdrive.vla.inference.predictor import Predictor
from nsdrive.vla.prompt import N_WAYPOINTS, parse_answer
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.logs import VALIDATIONS, read_log
from nsdrive.vla.training.loss_log import LossLog, global_batch, sum_over_processes
from nsdrive.vla.training.processes import agree_on_greatest, is_first_process
from nsdrive.vla.training.stopping import Stopping
from nsdrive.vla.training.tracking import Tracking
from nsdrive.vla.trajectory_head import head_of
from nsdrive.world.types import FloatArray

HORIZON = "3s"
HEAD_TIMES = 4  # chosen by us: one forward costs a tenth of an answer and less
# chosen by us, as `nsdrive predict`; halved where the GPU's memory does not suffice beside the training's
BATCH_SIZE = 8
SUBSET_SEED = 0  # not the training's: runs with other seeds are measured on the same samples


class Samples(Protocol):
    """What is asked of the rows of a split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


def validations(
    config: TrainConfig,
    dataset: Path,
    log: LossLog,
    folder: Path,
    stopping: Stopping,
    *,
    resumed_step: int,
    tracking: Tracking,
) -> list[Validation]:
    """What a training's settings ask for, as callbacks to put before the log; none, and one line, for questions about images.

    FileNotFoundError or ValueError as `open_rows`.
    """
    if not config.validate_every_steps:
        return []
    samples = open_rows(dataset, "val", level=config.train_level)
    if _are_questions(samples):
        if is_first_process():
            line = "The samples to validate on are questions about images, without waypoints: no ADE while training"
            print(line, file=sys.stderr, flush=True)
        return []
    one = Validation(
        samples,
        folder,
        every_steps=config.validate_every_steps,
        n_samples=config.validate_samples,
        resumed_step=resumed_step,
        log=log,
        stopping=stopping,
        tracking=tracking,
    )
    return [one]


class Validation(TrainerCallback):
    """Looks every `every_steps` steps and after the last one; rows to `folder`/validation.jsonl and to the trackers.

    A training that is asked to stop does not wait for it: the resumed one looks first, at the model that it goes on from.
    After the last step it does wait, its checkpoint is written then. ValueError where the memory of one of several processes
    does not suffice under ZeRO-3.
    """

    def __init__(
        self,
        samples: Samples,
        folder: Path,
        *,
        every_steps: int,
        n_samples: int,
        resumed_step: int,
        log: LossLog,
        stopping: Stopping,
        tracking: Tracking,
    ) -> None:
        self._samples, self._path, self._every_steps = samples, folder / VALIDATIONS, every_steps
        self._log, self._stopping, self._tracking = log, stopping, tracking
        order = np.random.default_rng([SUBSET_SEED]).permutation(len(samples)).tolist()
        self._subsets = {"text": order[:n_samples], "head": order[: HEAD_TIMES * n_samples]}
        self.rows = [row for row in read_log(self._path) if row["step"] <= resumed_step] if resumed_step else []
        self._tables: TokenTables | None = None
        self._budget = 1
        self._spare: _Asked | None = None  # asked where a process has none left, so that all go in step
        self._batch_size = BATCH_SIZE

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not len(self._samples) and state.is_world_process_zero:
            print("There are no samples to validate on: no ADE while training", file=sys.stderr, flush=True)
        if state.is_world_process_zero and len(self._samples):
            write_atomically(self._path, "".join(json_line(row) for row in self.rows))
        if state.global_step > 0 and self._is_due(state):
            self._look(args, state)
            # here, where the checkpoint that it goes on from is of this very step: one step on, a look that was left is lost
            self._stopping.leave_if_asked(state.global_step, state.max_steps, self._path.parent)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._is_due(state):
            self._look(args, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:  # not where a signal ended it
            self._look(args, state)

    def _is_due(self, state: TrainerState) -> bool:
        """Between two steps; the last one's look comes when its checkpoint is written."""
        return state.global_step % self._every_steps == 0 and state.global_step < state.max_steps

    def _look(self, args: TrainingArguments, state: TrainerState) -> None:
        """Measure what has no row yet."""
        if not len(self._samples):
            return
        assert self._log.trainer is not None
        started_s = time.monotonic()
        done = {row["what"] for row in self.rows if row["step"] == state.global_step}
        model: Any = self._log.trainer.model
        model = model.get_base_model() if hasattr(model, "get_base_model") else model  # LoRA's layers are in it
        head = None if "head" in done else head_of(model)
        if head is None and "text" in done:
            return
        with _undisturbed(model), self._log.trainer.accelerator.autocast():
            tables = self._prepared()
            if tables is not None:
                text = Predictor(model=model, processor=self._log.trainer.processor, tables=tables, device=args.device)
                if head is not None:
                    self._keep("head", replace(text, head=head), args, state)
                if "text" not in done:
                    self._keep("text", text, args, state)
        self._log.pause(time.monotonic() - started_s)

    def _prepared(self) -> TokenTables | None:
        """What is needed once; None where none of the samples can be asked."""
        assert self._log.trainer is not None
        if self._tables is None:
            self._tables = TokenTables(self._log.trainer.processor.tokenizer)
            if not (is_deepspeed_zero3_enabled() and _some_see_nothing(self._samples, self._subsets["head"])):
                self._spare = next(filter(None, map(self._asked, self._subsets["head"])), None)
            self._budget = self._longest_reasoning()
            if self._spare is None:
                print("The validation samples cannot be asked: no ADE while training", file=sys.stderr, flush=True)
        return self._tables if self._spare is not None else None

    def _keep(self, what: str, predictor: Predictor, args: TrainingArguments, state: TrainerState) -> None:
        measured = self._measured(what, predictor, args, state)
        if measured is None:
            return
        step = state.global_step
        row = {"step": step, "samples_seen": step * global_batch(args), "what": what, **measured}
        self.rows.append(row)
        if state.is_world_process_zero:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json_line(row))
            self._tracking.log(step, {f"val/{what}/{name}": row[name] for name in ("ADE@3s", "miss_rate@3s")})

    def _measured(
        self, what: str, predictor: Predictor, args: TrainingArguments, state: TrainerState
    ) -> dict[str, Any] | None:
        """The row's numbers, the same on every process; None where a signal came, or, after one line, the memory was too small."""
        started_s = time.monotonic()
        chosen = self._subsets[what]
        found = np.zeros((len(chosen), N_WAYPOINTS + 1))  # displacements, and 1 where the answer failed
        gave_up = 0.0
        try:
            self._fill(found, what, predictor, args, state)
        except InterruptedError:
            gave_up = 1.0
        except MemoryError:
            gave_up = 1.0
            print(f"The memory does not suffice beside the training's: no validation by {what}", file=sys.stderr)
        summed = np.array(sum_over_processes([*found.ravel().tolist(), gave_up], args.device))
        if summed[-1]:
            return None
        table = summed[:-1].reshape(found.shape)
        ade_m, miss = average_m(table[:, :-1], HORIZON), missed(table[:, :-1], HORIZON)
        known = ~np.isnan(ade_m)
        if not known.any():
            return None
        return {
            "ADE@3s": round(float(ade_m[known].mean()), 6),
            "miss_rate@3s": round(float(miss[known].mean()), 6),
            "n": int(known.sum()),
            "failed": int(table[known, -1].sum()),
            "seconds": round(time.monotonic() - started_s, 3),
        }

    def _fill(
        self, found: FloatArray, what: str, predictor: Predictor, args: TrainingArguments, state: TrainerState
    ) -> None:
        """This process's rows of the table. MemoryError where not even one sample at a time fits, ValueError where it does not
        and others wait meanwhile; InterruptedError where the training is asked to stop: its checkpoint must not wait for
        answers."""
        chosen = self._subsets[what]
        while True:
            with suppress(OutOfMemory):
                for places in shares(len(chosen), args.process_index, args.world_size, self._batch_size):
                    if state.global_step < state.max_steps:
                        self._leave_if_asked()
                    asked = [None if place is None else self._asked(chosen[place]) for place in places]
                    points = self._points(what, predictor, [one or self._spare for one in asked])
                    for place, one, predicted in zip(places, asked, points, strict=True):
                        if place is not None:
                            found[place] = _compared(one, predicted)
                return
            if is_deepspeed_zero3_enabled() and args.world_size > 1:  # the others wait for it inside of their answers
                at_once = BATCH_SIZE * args.world_size // (HEAD_TIMES if what == "head" else 1)
                fewer = max(2, min(at_once, len(self._subsets["text"])))
                raise ValueError(
                    f"The GPU's memory does not suffice for a validation by {what} beside the training. "
                    f"Set validate_every_steps=0, or validate_samples below {fewer}, and go on with --resume"
                )
            if self._batch_size == 1 or is_deepspeed_zero3_enabled():
                raise MemoryError
            self._batch_size = max(1, self._batch_size // 2)

    def _leave_if_asked(self) -> None:
        asked = int(self._stopping.asked)
        if is_deepspeed_zero3_enabled():  # there nobody may go alone
            asked = agree_on_greatest(asked)
        if asked:
            raise InterruptedError

    def _points(self, what: str, predictor: Predictor, asked: Sequence[Any]) -> list[FloatArray | None]:
        """The waypoints (10, 2) of each sample, None where there are none to be read."""
        encoded = [one.encoded for one in asked]
        if what == "head":
            return list(predictor.waypoints(encoded))
        said = predictor.answer(encoded, [one.level for one in asked], max_reasoning_tokens=self._budget)
        return [parse_answer(text).waypoints_ego_m for text in said.texts]

    def _longest_reasoning(self) -> int:
        """Tokens, half as many again as the longest that the labels have: a model that has learnt little talks without end."""
        assert self._log.trainer is not None
        longest = 0
        for index in self._subsets["text"]:
            with suppress(ValueError):
                reasoning = self._samples[index].answer.partition(AFTER_REASONING)[0]
                longest = max(longest, len(self._log.trainer.processor.tokenizer(reasoning)["input_ids"]))
        return max(1, longest * 3 // 2)

    def _asked(self, index: int) -> _Asked | None:
        """A sample's question and label; None for one that cannot be asked."""
        assert self._log.trainer is not None
        try:
            row = self._samples[index]
            encoded = encode(self._log.trainer.processor, row, with_answer=False)
        except ValueError:
            return None
        label = row.waypoints_ego_m if row.waypoints_ego_m is not None else parse_answer(row.answer).waypoints_ego_m
        return _Asked(encoded=encoded, level=row.level, label_m=label)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """label_m: the waypoints (10, 2) to be said, ego frame; None where the sample has none."""

    encoded: Encoded
    level: str
    label_m: FloatArray | None


def shares(n: int, process: int, processes: int, batch_size: int) -> list[list[int | None]]:
    """The batches of one process, so that all have as many and of the same sizes: None fills the last ones up."""
    per_process = -(-n // processes)
    own = [k if k < n else None for k in range(process, per_process * processes, processes)]
    return [own[first : first + batch_size] for first in range(0, per_process, batch_size)]


def _are_questions(samples: Samples) -> bool:
    """Questions about images instead of drives, by the first that can be read."""
    for index in range(len(samples)):
        with suppress(ValueError):
            return samples[index].level == PERCEPTION
    return False


def _some_see_nothing(samples: Samples, indices: Sequence[int]) -> bool:
    """Some with images and some without: under ZeRO-3 a process with its vision tower would wait for one without for ever."""
    kinds = set()
    for index in indices:
        with suppress(ValueError):
            kinds.add(bool(samples[index].images))
    return len(kinds) > 1


def _compared(asked: _Asked | None, predicted: FloatArray | None) -> FloatArray:
    """(11,): the ten displacements [m], nan where there is no label, and 1 for an answer that failed."""
    complete = asked is not None and usable(predicted)
    label = np.zeros((N_WAYPOINTS, 2)) if asked is None else asked.label_m  # what could not be asked is a failure
    if label is None:
        label = np.full((N_WAYPOINTS, 2), np.nan)
    said = predicted if complete and predicted is not None else np.zeros((N_WAYPOINTS, 2))
    distance_m = displacements_m(said[None], label[None], np.array([complete]))[0]
    return np.append(distance_m, 0.0 if complete else 1.0)


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """The model in eval mode; afterwards it, and every random number to come, are as they were."""
    training = [module for module in model.modules() if module.training]
    places = [module for module in model.modules() if hasattr(module, "rope_deltas")]  # Qwen keeps those of a prompt
    deltas = [module.rope_deltas for module in places]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, delta in zip(places, deltas, strict=True):
            module.rope_deltas = delta
        for module in training:
            module.training = True
