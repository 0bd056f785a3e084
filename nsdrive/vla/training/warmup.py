"""Eyes first: before the steps the vision tower alone learns to see what the renderer knows.

    warm_vision(model, processor, rows, steps=600, batch_size=16, learning_rate=1e-3, seed=0)    # the tower, in place

Cross-entropy on digits says little about where a car is, so that a tower of random weights hardly learns from it. Here every
image token is asked which object covers it and how far away that is, and all tokens of a sample together for the lead's gap,
the light, who is in view and where the road leads. No language model runs, so that a step costs a fraction of a later one.

What reads the facts from the tokens is thrown away afterwards. Batch k is a pure function of (seed, k), so that a warm-up that
was stopped goes on to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from nsdrive.vla.data.encoding import Encoded, encode
from nsdrive.vla.data.images import pixel_values
from nsdrive.vla.data.rows import Row
from nsdrive.vla.prompt import IMAGE_TOKEN
from nsdrive.vla.training.checkpoints import flush_to_disk
from nsdrive.vla.training.loader_workers import deaf_to_stops, ending_workers, start_method
from nsdrive.vla.training.stopping import Stopping, Unfinished
from nsdrive.vla.training.warmup_facts import CLASSES, GAP_SCALE_M, LIGHTS, N_NUMBERS, UNKNOWN, Facts, facts_of

_QUERIES = 8  # ways in which the tokens are summed up for the questions about the whole sample


class Reader(nn.Module):
    """Reads the facts from a sample's tokens (B, N, H). Only as strong as it must be, so that the tower does the work."""

    def __init__(self, width: int, n_tokens: int) -> None:
        super().__init__()
        self.each = nn.Linear(width, len(CLASSES) + 1)
        self.place = nn.Parameter(torch.zeros(n_tokens, width))  # which camera and where, for the sums
        self.queries = nn.Parameter(torch.randn(_QUERIES, width) / width**0.5)
        self.all = nn.Sequential(nn.Linear(_QUERIES * width, 128), nn.SiLU(), nn.Linear(128, len(LIGHTS) + N_NUMBERS))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        placed = tokens + self.place
        share = (placed @ self.queries.T).softmax(dim=1)  # (B, N, queries)
        return self.each(tokens), self.all((share.transpose(1, 2) @ placed).flatten(1))


def warm_vision(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    unfinished: Path | None = None,
    stopping: Stopping | None = None,
) -> list[dict[str, float]]:
    """Train the vision tower in place, where it is; the steps' number and parts: class_loss, light_loss, number_loss, gap_error_m.

    rows: of one rig. unfinished: a file to go on from where it is there, written when `stopping` says that a save is due, and
    when it was asked to stop, which raises Unfinished. ValueError where the first sample has no image or tells nothing to
    learn from.
    """
    data = _Scenes(rows, processor, n_samples=steps * batch_size, seed=seed)
    first = data[0]
    if first is None:
        raise ValueError(
            "vision_warmup_steps needs samples with images, and with the facts that nsdrive generate stores"
        )
    visual = tower_of(model)
    device = next(visual.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader(model.config.get_text_config().hidden_size, len(first[1].classes)).to(device)
    learns = [*(p for p in visual.parameters() if p.requires_grad), *reader.parameters()]
    optimizer = torch.optim.AdamW(learns, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    cycle = max(steps, 3)
    rise = max(0.1, 2.0 / cycle)  # a share of the steps, but two at the least: it cannot divide a rise of one
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=cycle, pct_start=rise)
    parts_of_state = {"tower": visual, "reader": reader, "optimizer": optimizer, "rate": rate}
    done = 0
    said: list[dict[str, float]] = []
    if unfinished is not None and unfinished.is_file():
        done, said = _go_on_from(unfinished, parts_of_state)
    left = torch.utils.data.Subset(data, range(done * batch_size, len(data)))
    batches = torch.utils.data.DataLoader(
        left,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_kept,
        worker_init_fn=deaf_to_stops,
        multiprocessing_context=start_method(workers),
    )
    with ending_workers(left):
        for step, batch in enumerate(batches, start=done + 1):
            kept = [one for one in batch if len(one[1].classes) == len(first[1].classes)]
            if kept:
                parts = _step(visual, reader, processor, kept, device)
                parts["loss"].backward()
                nn.utils.clip_grad_norm_(learns, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                said.append({"step": step, **{name: float(value) for name, value in parts.items() if name != "loss"}})
            rate.step()
            progress(step, steps)
            if unfinished is not None and stopping is not None and (stopping.asked or stopping.is_due) and step < steps:
                _keep(unfinished, step, said, parts_of_state)
                stopping.note_save()
                if stopping.asked:
                    raise Unfinished(f"in the vision warm-up, after step {step} of {steps}, which is kept")
    return said


def _keep(path: Path, step: int, said: list[dict[str, float]], parts: dict[str, Any]) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    part = path.with_name(f".{path.name}.part")
    torch.save({"step": step, "said": said, **state}, part)
    flush_to_disk(part)
    part.replace(path)


def _go_on_from(path: Path, parts: dict[str, Any]) -> tuple[int, list[dict[str, float]]]:
    """The steps done and what they said; the parts are then as they were."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["said"]


def _step(visual: Any, reader: Reader, processor: Any, kept: Sequence[_Scene], device: torch.device) -> dict[str, Any]:
    grid = torch.cat([one.grid for one, _ in kept if one.grid is not None]).to(device)
    patches = torch.cat([one.patches for one, _ in kept if one.patches is not None]).to(device)
    pixels = pixel_values(patches, processor.image_processor, next(visual.parameters()).dtype)
    seen = visual(pixels, grid_thw=grid).pooler_output
    tokens = seen.reshape(len(kept), -1, seen.shape[-1]).float()
    each, whole = reader(tokens)
    classes = torch.stack([facts.classes for _, facts in kept]).to(device)
    distance = torch.stack([facts.log_distance for _, facts in kept]).to(device)
    lights = torch.tensor([facts.light for _, facts in kept], device=device)
    numbers = torch.stack([facts.numbers for _, facts in kept]).to(device)
    class_loss = _mean_known(cross_entropy(each[..., :-1].flatten(0, 1), classes.flatten(), reduction="none"), None)
    distance_loss = _mean_known(smooth_l1_loss(each[..., -1], _zeroed(distance), reduction="none"), distance)
    light_loss = _mean_known(
        cross_entropy(whole[:, : len(LIGHTS)], lights, reduction="none", ignore_index=UNKNOWN),
        torch.where(lights == UNKNOWN, torch.nan, 0.0),
    )
    guesses = whole[:, len(LIGHTS) :]
    number_loss = _mean_known(smooth_l1_loss(guesses, _zeroed(numbers), reduction="none"), numbers)
    gap_error = _mean_known((guesses[:, 1] - _zeroed(numbers[:, 1])).abs(), numbers[:, 1]) * GAP_SCALE_M
    return {
        "loss": 2.0 * class_loss + distance_loss + light_loss + 2.0 * number_loss,  # chosen by us: about one size each
        "class_loss": class_loss.detach(),
        "light_loss": light_loss.detach(),
        "number_loss": number_loss.detach(),
        "gap_error_m": gap_error.detach(),
    }


# ---- what is known of a sample ------------------------------------------------------------------------------------


_Scene = tuple[Encoded, Facts]


class _Scenes(torch.utils.data.Dataset[Any]):
    """Entry k: a sample's images and facts, None where it has none."""

    def __init__(self, rows: Any, processor: Any, *, n_samples: int, seed: int) -> None:
        self._rows, self._processor, self._n_samples, self._seed = rows, processor, n_samples, seed

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, k: int) -> _Scene | None:
        epoch, place = divmod(k, len(self._rows))
        index = int(np.random.default_rng([self._seed, 7, epoch]).permutation(len(self._rows))[place])
        row: Row = self._rows[index]
        wordless = replace(row, prompt=IMAGE_TOKEN * len(row.images))
        encoded = encode(self._processor, wordless, with_answer=False)
        if encoded.grid is None:
            return None
        facts = facts_of(self._rows.raw(index), encoded.grid, merge=self._processor.image_processor.merge_size)
        return None if facts is None else (encoded, facts)


def _kept(items: Sequence[_Scene | None]) -> list[_Scene]:
    return [item for item in items if item is not None]


# ---- small things ---------------------------------------------------------------------------------------------------


def tower_of(model: Any) -> Any:
    """The eyes of a model, with LoRA around it or not."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.model.visual


def _zeroed(x: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(x)


def _mean_known(values: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    if known is None:
        return values.mean()
    mask = torch.isfinite(known)
    return (values * mask).sum() / mask.sum().clamp(min=1)
