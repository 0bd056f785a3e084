"""How well a model sees: its answers to questions about images, held to the true ones, topic by topic.

    seen = perceiving("out/run/model", dataset=Path("out/questions"), split="test", limit=500)
    print(seen)                                   # topic, n, right, right by guessing, metres off, metres off by guessing

Whoever answers every question of a topic with that topic's most frequent answer, or its median distance, is right so often
and off by so much by guessing; a model that does no better has not looked.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nsdrive.dataset import is_perception, open_dataset

# chosen by us: the longest answer, "pedestrian, 12.3 m, 45 deg right", where each digit is a token
MAX_ANSWER_TOKENS = 24
_METRES = re.compile(r"(\d+\.\d) m\b")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Questions of one topic. right: share of exact answers. off_m: mean error of the distances that are given where there is
    one, None where the topic has none; without_m: share of those answers that give none. guess_*: as in the module."""

    topic: str
    n: int
    right: float
    guess_right: float
    off_m: float | None
    guess_off_m: float | None
    without_m: float | None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All topics, in the order of their names."""

    topics: tuple[Topic, ...]

    @property
    def n(self) -> int:
        return sum(topic.n for topic in self.topics)

    @property
    def right(self) -> float:
        return sum(topic.right * topic.n for topic in self.topics) / self.n

    @property
    def guess_right(self) -> float:
        return sum(topic.guess_right * topic.n for topic in self.topics) / self.n

    def __str__(self) -> str:
        lines = [f"{'topic':26}{'n':>6}{'right':>9}{'guess':>9}{'off':>9}{'guess':>9}"]
        for t in self.topics:
            off = ["", ""] if t.guess_off_m is None else [_metres(t.off_m), _metres(t.guess_off_m)]
            lines.append(f"{t.topic:26}{t.n:6d}{t.right:9.1%}{t.guess_right:9.1%}{off[0]:>9}{off[1]:>9}")
        lines.append(f"{'all':26}{self.n:6d}{self.right:9.1%}{self.guess_right:9.1%}")
        return "\n".join(lines)


def perceiving(
    model: str | Path,
    *,
    dataset: Path,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 16,
    trust_remote_code: bool = False,
    allow_slow_kernels: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Seen:
    """Ask a model (a folder or a hub id) the questions of a split, the first `limit` of an order that mixes them, and score its
    greedy answers. ValueError, one line, where the dataset holds no questions, or the GPU has not the memory for a batch."""
    import numpy as np
    import torch
    from transformers import GenerationConfig

    from nsdrive.vla.data.batch import collate, model_inputs
    from nsdrive.vla.data.encoding import encode
    from nsdrive.vla.data.rows import Rows
    from nsdrive.vla.inference.engine import OutOfMemory
    from nsdrive.vla.inference.predictor import Predictor, within_memory
    from nsdrive.vla.model import model_type, require_fast_kernels
    from nsdrive.vla.question_form import model_folder

    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"--batch-size and --limit must be at least 1, got {batch_size} and {limit}")
    opened = open_dataset(dataset)
    if not is_perception(opened):
        raise ValueError(f"{dataset} holds drives, not questions about images: make some, nsdrive perceive")
    rows = Rows(opened, split)
    chosen = np.random.default_rng([0]).permutation(len(rows))[:limit].tolist()
    if not chosen:
        raise ValueError(f"{dataset} has no questions in its split '{split}'")
    topics = [_topic_of(rows.raw(k)) for k in chosen]  # what is wrong with them is said before minutes are lost
    folder = model_folder(str(model))
    require_fast_kernels(model_type(folder, trust_remote_code=trust_remote_code), allow_slow=allow_slow_kernels)
    predictor = Predictor.load(folder, trust_remote_code=trust_remote_code)
    processor, said = predictor.processor, []
    settings = GenerationConfig(  # not the checkpoint's own: Qwen's bring temperatures and a repetition penalty
        max_new_tokens=MAX_ANSWER_TOKENS,
        do_sample=False,
        eos_token_id=predictor.tables.end_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    for start in range(0, len(chosen), batch_size):
        items = [encode(processor, rows[k], with_answer=False) for k in chosen[start : start + batch_size]]
        inputs = model_inputs(collate(items, processor, for_generation=True), processor, predictor.device)
        try:
            with torch.no_grad(), within_memory(len(items)):
                ids = predictor.model.generate(**inputs, generation_config=settings)
        except OutOfMemory as error:
            raise ValueError(f"{error}: take a smaller --batch-size") from None
        new = ids[:, inputs["input_ids"].shape[1] :]
        said += [text.strip() for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
        progress(len(said), len(chosen))
    return scored([(topic, rows[k].answer, text) for topic, k, text in zip(topics, chosen, said, strict=True)])


def scored(answers: Sequence[tuple[str, str, str]]) -> Seen:
    """From (topic, true answer, given answer)."""
    by_topic: Mapping[str, list[tuple[str, str]]] = defaultdict(list)
    for topic, true, given in answers:
        by_topic[topic].append((true, given))
    return Seen(topics=tuple(_topic(name, by_topic[name]) for name in sorted(by_topic)))


def _topic(name: str, pairs: Sequence[tuple[str, str]]) -> Topic:
    distances = [(d, metres_in(given)) for true, given in pairs if (d := metres_in(true)) is not None]
    given = [(true, said) for true, said in distances if said is not None]
    middle = median(true for true, _ in distances) if distances else 0.0
    return Topic(
        topic=name,
        n=len(pairs),
        right=fmean(true == said for true, said in pairs),
        guess_right=Counter(true for true, _ in pairs).most_common(1)[0][1] / len(pairs),
        off_m=fmean(abs(true - said) for true, said in given) if given else None,
        guess_off_m=fmean(abs(true - middle) for true, _ in distances) if distances else None,
        without_m=1.0 - len(given) / len(distances) if distances else None,
    )


def metres_in(answer: str) -> float | None:
    """The distance that an answer gives, None where it gives none."""
    found = _METRES.search(answer)
    return float(found[1]) if found else None


def _topic_of(row: Mapping[str, Any]) -> str:
    try:
        return str(row["nsdrive"]["topic"])
    except (KeyError, TypeError):
        raise ValueError(f"Question {str(row['id'])[:80]} names no topic") from None


def _metres(off_m: float | None) -> str:
    return "none" if off_m is None else f"{off_m:.2f} m"
