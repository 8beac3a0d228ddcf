"""A GPT learns the reference of the Python language, byte by byte, and goes on with a text.

    python examples/language_model.py                    2.25 bits for each byte, of 8, in a minute on an idle core
    mpirun -n 2 python examples/language_model.py        the same numbers

It has what a language model is trained with: windows of a text that move from epoch to epoch, AdamW that decays weights
and not biases, warm-up and a cosine, clipping, and bits per byte of text that the model has not seen. More epochs, and
a larger --width, and what it writes comes nearer to the reference.
"""

import argparse
from math import log

import npdp
from npdp import nn, no_grad, optim
from npdp.data import DataLoader, sources
from npdp.models.generate import generate
from npdp.models.gpt import GPT
from npdp.optim import learning_rates

CONTEXT, BATCH, LR = 64, 16, 2e-3

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="python-docs", help="a .txt file or a folder of them (python-docs)")
parser.add_argument("--epochs", type=int, default=4, help="passes over the text (4)")
parser.add_argument("--width", type=int, default=64, help="numbers that a token has between blocks (64)")
flags = parser.parse_args()

npdp.init()
npdp.manual_seed(1)
data = sources.load(flags.data, tokenizer="bytes", context=CONTEXT)
model = GPT(vocabulary=256, context=CONTEXT, layers=2, heads=4, width=flags.width)

loader = DataLoader(data.train, batch_size=BATCH, shuffle=True, seed=1)
steps = flags.epochs * len(loader)
lr = learning_rates.warm_up(learning_rates.cosine(LR, steps), iterations=steps // 20)
weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
others = [parameter for parameter in model.parameters() if parameter.ndim == 1]  # biases and norms
optimizer = optim.AdamW([{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}], lr=lr)
wrapped, criterion = nn.DataParallel(model), nn.CrossEntropyLoss()


def losses(batches):
    """Yield the loss of each batch, of this rank's part, and how many windows that has."""
    for inputs, labels in batches:
        yield criterion(wrapped(inputs).reshape(-1, 256), labels.reshape(-1)), len(labels)


def bits_per_byte():
    """Return the loss on the held-out end of the text, in bits (nats / ln 2); a token is a byte here."""
    total = count = 0.0
    with no_grad():
        for loss, windows in losses(DataLoader(data.test, BATCH)):
            total += loss.item() * windows
            count += windows
    return npdp.global_mean(total / max(1, count), count) / log(2)


for epoch in range(flags.epochs):
    for loss, _ in losses(loader):
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
    reached = bits_per_byte()
    if npdp.rank() == 0:
        print(f"epoch {epoch + 1:2}  bits per byte {reached:.3f}", flush=True)

if npdp.rank() == 0:  # no collective in here: the model itself, not wrapped, is this rank's alone
    prompt = "The "
    tokens = generate(model.eval(), list(prompt.encode()), count=200, temperature=0.7, top_k=20, seed=1)
    print(prompt + data.tokenizer.decode(list(tokens)))
    print(f"{npdp.world_size()} ranks: {reached:.3f} bits per byte of text that it has not seen")
