"""Which digit was said? A recurrent network hears a speech synthesizer, and then voices that it has never heard.

    python examples/spoken_digits.py make spoken.npz         a minute; needs espeak-ng (`apt-get install espeak-ng`)
    python examples/spoken_digits.py train spoken.npz
    mpirun -n 2 python examples/spoken_digits.py train spoken.npz         the same numbers

    "seven" -> espeak-ng, one of its voices, accents, pitches and speeds -> noise -> log-mel spectrum -> GRU -> 7

Every fifth voice is kept for the test, with its relatives (steph, steph2): none of them speaks in the training.
A log-mel spectrum is what an ear makes of sound: how loud it is, every 20 ms, in bands that are narrow where it is low.
Source: Davis and Mermelstein, Comparison of parametric representations for monosyllabic word recognition, 1980.
"""

import argparse
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import groupby

import numpy as np

import npdp
from npdp import nn, no_grad, optim
from npdp.data import DataLoader, sources
from npdp.models.gru import GRUClassifier
from npdp.optim import learning_rates

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ACCENTS = ["en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan"]
RATE, FRAME, HOP, BANDS = 22050, 1024, 441, 26  # samples a second, in a window, from one to the next; mel bands
STEPS = 60  # of 20 ms: a recording
EPOCHS, BATCH, LR = 8, 64, 5e-3


# Making the data
def voices():
    """Return the names of espeak-ng's voices for training, and of those for the test."""
    listed = subprocess.run(["espeak-ng", "--voices=variant"], check=True, capture_output=True, text=True).stdout
    names = sorted(re.findall(r"!v/(\S+)", listed))
    families = [list(family) for _, family in groupby(names, lambda name: name.rstrip("0123456789"))]
    heard = [name for i, family in enumerate(families) if i % 5 for name in family]
    return heard, [name for family in families[::5] for name in family]


def spoken(word, voice, generator):
    """Return the sound of a word, float samples, said in a random accent, pitch and speed."""
    accent, pitch, speed = generator.choice(ACCENTS), generator.integers(20, 80), generator.integers(110, 220)
    command = ["espeak-ng", "-v", f"{accent}+{voice}", "-p", f"{pitch}", "-s", f"{speed}", "--stdout", word]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(wav[44 : len(wav) & ~1], "<i2") / 2**15  # behind the header of 44 bytes


def recorded(sound, generator):
    """Return a recording of STEPS: the sound somewhere in it, 5 to 25 dB above the noise."""
    samples = generator.standard_normal(STEPS * HOP + FRAME)
    sound = sound[: len(samples)]
    at = generator.integers(len(samples) - len(sound) + 1)
    loudness = 10 ** (generator.uniform(5, 25) / 20) / max(1e-6, sound.std())
    samples[at : at + len(sound)] += loudness * sound
    return samples


@cache
def mel_bands():
    """Return (frequencies, BANDS) weights: triangles, as wide as equal steps of pitch to an ear."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    low, centre, high = (edges[:, None] for edges in np.lib.stride_tricks.sliding_window_view(
        700 * (10 ** (mels / 2595) - 1), BANDS))  # fmt: skip
    frequencies = np.fft.rfftfreq(FRAME, 1 / RATE)
    return np.maximum(0, np.minimum((frequencies - low) / (centre - low), (high - frequencies) / (high - centre))).T


def log_mel(samples):
    """Return (STEPS, BANDS) loudness, in tens of decibels about the mean of each band."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP][:STEPS]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME))) ** 2  # (STEPS, frequencies)
    loudness = np.log10(power @ mel_bands() + 1e-6)
    return (loudness - loudness.mean(axis=0)).astype(np.float32)


def recording(names, number):
    """Return the features and the label of a recording; its number is the seed."""
    generator = np.random.default_rng(number)
    label, voice = number % len(WORDS), names[generator.integers(len(names))]
    return log_mel(recorded(spoken(WORDS[label], voice, generator), generator)).ravel(), label


def make(path, count):
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng is not installed; `apt-get install espeak-ng` brings it (Debian, Ubuntu)")
    heard, unheard = voices()
    with ThreadPoolExecutor() as threads:
        x, y = zip(*threads.map(partial(recording, heard), range(count)))
        x_test, y_test = zip(*threads.map(partial(recording, unheard), range(count, count + count // 5)))
    np.savez_compressed(path, x=x, y=y, x_test=x_test, y_test=y_test)
    print(f"{path}: {len(y)} recordings of {len(heard)} voices to train on, "
          f"{len(y_test)} of {len(unheard)} others to test")  # fmt: skip


# Training on it
def accuracy(model, test):
    """Return the part of the test that the model has right; collective, each rank looks at its part."""
    right = count = 0.0
    with no_grad():
        for inputs, labels in DataLoader(test, batch_size=500):
            right += float((model(inputs).data.argmax(axis=1) == labels.data).sum())
            count += len(labels)
    return npdp.global_mean(right / max(1, count), count)


def train(path):
    npdp.init()
    npdp.manual_seed(1)
    data = sources.load(path)
    model = GRUClassifier(BANDS, len(WORDS), hidden=64, dropout=0.2)
    loader = DataLoader(data.train, batch_size=BATCH, shuffle=True, seed=1)
    optimizer = optim.AdamW(model.parameters(), lr=learning_rates.cosine(LR, EPOCHS * len(loader)))
    model, criterion = nn.DataParallel(model), nn.CrossEntropyLoss()
    for epoch in range(EPOCHS):
        model.train()
        total = count = 0.0
        for inputs, labels in loader:
            loss = criterion(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(labels)
            count += len(labels)
        mean, right = npdp.global_mean(total / max(1, count), count), accuracy(model.eval(), data.test)
        if npdp.rank() == 0:
            print(f"epoch {epoch + 1:2}  mean loss {mean:.3f}  accuracy on other voices {right:.3f}", flush=True)
    if npdp.rank() == 0:
        print(f"{npdp.world_size()} ranks: {right:.3f} right of digits said by voices that it has not heard")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "train"], help="make the data set, or train on it")
    parser.add_argument("file", help="the data set, .npz")
    parser.add_argument("--recordings", type=int, default=3000, help="to make for training (3000), and a fifth to test")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.file, arguments.recordings)
    else:
        train(arguments.file)
