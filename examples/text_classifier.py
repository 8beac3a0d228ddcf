"""Which section does a Debian package belong to? Learned from one line about it, with a sparse linear model.

    python examples/text_classifier.py make sections.npz         from the lists that `apt-get update` left here
    python examples/text_classifier.py train sections.npz
    mpirun -n 4 python examples/text_classifier.py train sections.npz         the same losses

Words, pairs of words and parts of words are hashed into 2^18 features, of which a text has about a hundred. A step
then reads, exchanges and updates some thousand rows of the weight, not all.

Source: Weinberger et al., Feature hashing for large scale multitask learning, 2009.
"""

import argparse
import glob
import gzip
import lzma
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from itertools import pairwise

import numpy as np

import npdp
from npdp import nn, no_grad, optim
from npdp.data import DataLoader, SparseDataset, sources
from npdp.data.formats import sparse_npz
from npdp.optim import learning_rates

LISTS = "/var/lib/apt/lists"
FEATURES, SECTIONS = 2**18, 25
EPOCHS, BATCH, LR = 8, 1024, 1600.0  # a row is moved by few texts of a batch, and each is of length 1
BIAS_LR = LR / 400  # the bias is moved by all of them: scikit-learn's SGDClassifier slows it down, too


# Making the data
def text_of(path):
    """Return the text of a list as apt keeps it, compressed or not."""
    if path.endswith(".lz4"):
        return subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], check=True, capture_output=True).stdout
    openers = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path[path.rfind(".") :], open)(path, "rb") as file:
        return file.read()


def packages():
    """Return {description: section}, from all packages that apt knows of, each description once."""
    paths = sorted(glob.glob(f"{LISTS}/*_Packages*") + glob.glob(f"{LISTS}/*_Translation-en*"))
    if "dists_" not in "".join(paths):
        sys.exit(f"no lists of packages in {LISTS}: run `apt-get update` first (as root, on Debian or Ubuntu)")
    sections, descriptions = {}, {}
    for path in paths:
        for entry in text_of(path).decode(errors="replace").split("\n\n"):
            fields = dict(re.findall(r"^(Package|Section|Description(?:-en)?): ?((?:.*\n?)(?: .*\n?)*)", entry, re.M))
            name, section = fields.get("Package", "").strip(), fields.get("Section")
            description = fields.get("Description-en", fields.get("Description", ""))
            if section:
                sections[name] = section.strip().rpartition("/")[2]
            if len(description) > len(descriptions.get(name, "")):
                descriptions[name] = description
    return {descriptions[name]: section for name, section in sections.items() if name in descriptions}


def tokens(text):
    """Yield the words, the pairs of neighbours, and what each word has of 3 to 5 letters in a row."""
    words = re.findall(r"[a-z0-9+#]+", text.lower())
    yield from words
    yield from map(" ".join, pairwise(words))
    for word in words:
        bounded = f"<{word}>"
        for length in (3, 4, 5):
            yield from (bounded[i : i + length] for i in range(len(bounded) - length + 1))


def hashed(text):
    """Return the features of a text and their values: 1 + log of how often, of length 1 together."""
    counts = Counter(zlib.crc32(token.encode()) % FEATURES for token in tokens(text))
    indices = np.array(sorted(counts), np.int32)
    values = np.array([1 + np.log(counts[index]) for index in indices.tolist()], np.float32)
    return indices, values / np.float32(np.linalg.norm(values) or 1)


def dataset(texts, labels):
    rows = [hashed(text) for text in texts]
    indptr = np.cumsum([0, *(len(indices) for indices, _ in rows)])
    indices, values = (np.concatenate(arrays) for arrays in zip(*rows))
    return SparseDataset((indptr, indices, values, FEATURES), np.array(labels))


def make(path):
    """Write a data set of the most frequent sections: a tenth to test, chosen by a hash of the text."""
    found = packages()
    names = sorted(name for name, _ in Counter(found.values()).most_common(SECTIONS))
    parts = {False: ([], []), True: ([], [])}
    for text, section in sorted(found.items(), key=lambda item: zlib.crc32(item[0].encode())):
        if section in names:
            texts, labels = parts[zlib.crc32(text.encode()) % 10 == 0]
            texts.append(text)
            labels.append(names.index(section))
    train, test = dataset(*parts[False]), dataset(*parts[True])
    sparse_npz.write(path, train, test)
    print(f"{path}: {len(train)} texts to train on, {len(test)} to test, {len(names)} sections, "
          f"{len(train.x.values) / len(train):.0f} of {FEATURES} features a text")  # fmt: skip


# Training on it
def accuracy(model, test):
    """Return the part of the test set that the model has right; collective, each rank looks at its own rows."""
    inputs, labels = test.take(slice(npdp.rank(), None, npdp.world_size()))
    with no_grad():
        right = float((model(inputs).data.argmax(axis=1) == labels).mean()) if len(labels) else 0.0
    return npdp.global_mean(right, len(labels))


def train(path):
    npdp.init()
    data = sources.load(path)
    model = nn.SparseLinear(data.train.sample_shape[0], data.classes)
    loader = DataLoader(data.train, batch_size=BATCH, shuffle=True, seed=1)
    steps = EPOCHS * len(loader)
    rates = {model.weight: LR, model.bias: BIAS_LR}
    optimizer = optim.SGD([{"params": p, "lr": learning_rates.cosine(lr, steps)} for p, lr in rates.items()])
    model = nn.DataParallel(model)
    criterion = nn.CrossEntropyLoss()
    begun = time.perf_counter()
    for epoch in range(EPOCHS):
        total = count = 0.0
        for inputs, labels in loader:
            loss = criterion(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            count += len(labels)
        mean = npdp.global_mean(total / max(1, count), count)
        if npdp.rank() == 0:
            print(f"epoch {epoch + 1}  mean loss {mean:.4f}")
    speed = EPOCHS * len(data.train) / (time.perf_counter() - begun)
    right = accuracy(model, data.test)
    if npdp.rank() == 0:
        print(f"{npdp.world_size()} ranks: test accuracy {right:.4f}, {speed:.0f} samples/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "train"], help="make the data set, or train on it")
    parser.add_argument("file", help="the data set, .npz")
    arguments = parser.parse_args()
    {"make": make, "train": train}[arguments.command](arguments.file)
