"""Which token comes next: the likeliest, or one drawn at a temperature, by a seed of the answer's own.

    drawing = Drawing(end_id=..., temperature=0.7, seeds=[11, 12])
    model.generate(..., do_sample=False, logits_processor=[grammar, drawing])
    drawing.times_s                 # when each step's tokens were chosen

A draw is the arg-max of the log-probabilities, divided by the temperature, plus Gumbel noise (Gumbel 1954; Maddison et al.,
2014): so the noise of an answer is a function of its seed alone, and the same whatever else is in its batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class Drawing(LogitsProcessor):
    """For greedy decoding, one use per generate call; the last of the processors. seeds: one for each row, where temperature > 0.

    log_likelihoods: of what was drawn, at temperature 1 under whatever the processors before let through; up to the end mark.
    """

    def __init__(self, *, end_id: int, temperature: float = 0.0, seeds: Sequence[int] = ()) -> None:
        self.times_s: list[float] = []
        self._end_id, self._temperature, self._seeds = end_id, temperature, list(seeds)
        self._generators: list[torch.Generator] = []
        self._likelihood = torch.zeros(0)
        self._open = torch.zeros(0)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """scores (B, vocabulary)."""
        if self._temperature > 0.0:
            scores = self._drawn(scores)  # type: ignore[assignment]
        if not self.times_s:
            scores[0, 0].item()  # waits for the GPU, which is still reading the prompt
        self.times_s.append(time.perf_counter())
        return scores

    @property
    def log_likelihoods(self) -> list[float | None]:
        return [round(value, 3) for value in self._likelihood.tolist()]

    def _drawn(self, scores: torch.Tensor) -> torch.Tensor:
        if not self._generators:
            device = scores.device
            self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in self._seeds]
            self._likelihood = torch.zeros(len(scores), dtype=torch.float64, device=device)
            self._open = torch.ones(len(scores), dtype=torch.bool, device=device)
        assert len(scores) == len(self._generators), "one seed for each row"
        log_p = scores.float().log_softmax(dim=-1)
        noise = torch.stack(
            [torch.rand(scores.shape[-1], generator=one, device=scores.device) for one in self._generators]
        )
        token = (log_p / self._temperature - (-noise.log()).log()).argmax(dim=-1, keepdim=True)
        self._likelihood += torch.where(self._open, log_p.gather(-1, token)[:, 0].double(), 0.0)
        self._open &= token[:, 0] != self._end_id
        return torch.full_like(scores, -torch.inf).scatter_(-1, token, 0.0)
