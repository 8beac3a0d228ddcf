"""Text from a saved language model, for `npdp generate`."""

from __future__ import annotations

from collections.abc import Iterator

from npdp import nn
from npdp.app import saved_model
from npdp.app.evaluation import evaluating
from npdp.base.errors import InputError
from npdp.data.sources import DataSplit
from npdp.data.text import from_json
from npdp.models.generate import generate
from npdp.models.gpt import GPT

# Characters that would move a terminal's cursor, or change how it writes, and not be seen
UNSEEN = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"}


def text_of(
    path: str, prompt: str, tokens: int, temperature: float, top_k: int | None, seed: int, trust: bool = False
) -> Iterator[str]:
    """Yield what a saved language model goes on with, piece by piece, the prompt first.

    Raises:
        InputError: the file is no language model, or the prompt has what it knows no token for.
    """
    saved = saved_model.load(path, trust)
    described, model = saved.description.get("tokenizer"), saved.model
    if described is None or not isinstance(model, GPT):
        raise InputError(f"{path}: its model, {saved.description['model']}, is no language model: wanted a gpt")
    tokenizer = from_json(described)
    if not prompt:
        raise InputError("--prompt: wanted at least one character to go on from")
    known = tokenizer.encode(prompt, "--prompt").tolist()
    yield prompt
    stream = tokenizer.stream()
    for token in generate(model, known, tokens, temperature, top_k, seed):
        yield stream.feed([token])
    yield stream.end()


def sample(model: nn.Module, data: DataSplit, tokens: int, temperature: float) -> str:
    """Return a text that a model in training goes on with, from the beginning of the held-out part, to be shown."""
    assert isinstance(model, GPT) and data.tokenizer is not None
    (first, _) = (data.test or data.train).take(slice(0, 1))
    with evaluating(model):
        found = list(generate(model, first[0][: model.context // 4 or 1].tolist(), tokens, temperature))
    return seen(data.tokenizer.decode(found))


def seen(text: str) -> str:
    """Return a text as a terminal may show it: control characters that steer one are replaced by U+FFFD."""
    return text.translate(UNSEEN)
