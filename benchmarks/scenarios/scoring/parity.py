"""P(Yes) of the f16 file against transformers in float32: one prompt a decode, and batched."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.models import Subject
from harness.ours import Ours
from harness.shapes import SHAPES, PromptStream
from harness.vocabulary import answer_tokens
from peers.transformers import Single


def parity(subject: Subject, threads: int, users: int = 3) -> dict[str, Any]:
    """Greatest differences over `users` times 20 prompts of both suffix lengths; also that between our two ways."""
    stream = PromptStream(subject.vocab, seed=19)
    prompts = [p for name in ("a1", "a2") for _ in range(users) for p in stream.batch(SHAPES[name])]
    expected = np.asarray(Single("torch-f32", subject, answer_tokens(), None).score(prompts))
    ours = Ours(subject.files["F16"], answer_tokens(), threads)
    alone = []
    for prompt in prompts:
        ours.reset()
        alone += ours.score([prompt])
    ours.reset()
    together = np.asarray(ours.score(prompts))
    ours.close()
    return {
        "model": subject.name, "prompts": len(prompts), "one_a_decode": _worst(np.asarray(alone), expected),
        "batched": _worst(together, expected), "batched_to_one_a_decode": _worst(together, np.asarray(alone)),
    }  # fmt: skip


def _worst(found: Any, expected: Any) -> float:
    return round(float(np.abs(found - expected).max()), 6)
