"""Generation of text, token by token, each drawn from what the model gives for the next one.

    tokens so far ── model ── logits / temperature ── the k largest ── softmax ── draw one ── and again

Keys and values of earlier tokens are kept, so that each new token is one row through the model. When the context is
full, its later half is read in again, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from npdp.autograd import no_grad
from npdp.autograd.tensor import Array
from npdp.base.errors import InputError
from npdp.models.attention import Cache
from npdp.models.gpt import GPT


def generate(
    model: GPT, prompt: Sequence[int], count: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
) -> Iterator[int]:
    """Yield `count` tokens that go on from a prompt.

    Args:
        model: in evaluation; on this rank alone.
        prompt: at least one token.
        temperature: below 1 likely tokens become likelier; 0 takes the likeliest.
        top_k: draw among so many of the likeliest; None: all.
        seed: of the draws.

    Raises:
        ValueError: the prompt is empty.
        InputError: the model gives NaN.
    """
    if len(prompt) == 0:
        raise ValueError("generate: wanted a prompt of at least one token to go on from, got none")
    generator = np.random.default_rng(seed)
    tokens = list(prompt[-model.context :])
    new, caches = tokens, _caches(model)
    for _ in range(count):
        if len(tokens) > model.context:
            tokens = tokens[-(model.context // 2) :] if model.context > 1 else tokens[-1:]
            new, caches = tokens, _caches(model)
        with no_grad():
            logits = model(np.array([new]), caches).data[0, -1]
        token = draw(logits, temperature, top_k, generator)
        yield token
        new = [token]
        tokens.append(token)


def draw(logits: Array, temperature: float, top_k: int | None, generator: np.random.Generator) -> int:
    """Return a token drawn by its logits, (vocabulary,); InputError where one is NaN."""
    if np.isnan(logits).any():  # which `argmax` would take for the likeliest
        raise InputError("the model has no answer but NaN: are its parameters finite?")
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):
        z = (logits.astype(np.float64) - logits.max()) / temperature  # of the likeliest 0, however low it is
    if top_k is not None and top_k < len(z):
        z[z < np.partition(z, -top_k)[-top_k]] = -np.inf
    p = np.exp(z)
    return int(generator.choice(len(p), p=p / p.sum()))


def _caches(model: GPT) -> list[Cache]:
    return [{} for _ in range(len(model.blocks))]
