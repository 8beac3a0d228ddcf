"""Input that cannot be used: one line that says why, exit code 2, nothing started and nothing written."""

import gzip
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import refusal

from npdp.app import cli, train

MODELS = {
    "syntax.py": "def make(:\n",
    "imports.py": "import math\nimport no_such_package\n",
    "raises.py": "def make(features):\n    raise KeyError('no such\\nlayer')\n",
    "exits.py": "import sys\n\ndef make():\n    sys.exit(5)\n",
    "exits_at_import.py": "import sys\nsys.exit(5)\n",
    "list.py": "def make(features):\n    return [1, 2]\n",
    "empty.py": "from npdp import nn\n\nclass Empty(nn.Module):\n    pass\n\ndef make():\n    return Empty()\n",
    "asks.py": "def make(features, depth):\n    return None\n",
    "number.py": "make = 3\n",
    "narrow.py": "from npdp import nn\n\nclass Narrow(nn.Module):\n    def __init__(self):\n"
                 "        self.fc = nn.Linear(10, 10)\n    def forward(self, x):\n        return self.fc(x)\n",
    "few.py": "from npdp import nn\n\ndef make():\n    return nn.Linear(64, 9)\n",
    "wide.py": "from npdp import nn\n\ndef make():\n    return nn.Linear(10, 2)\n",
}

TOKENS = ('{"format": 1, "dtype": "<u2", "count": 9, "source": {"bytes": 0, "sha256": ""}, "fingerprint": "", '
          '"learned": true, "tokenizer": {"tokenizer": "bytes"}}\n')


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One file for each fault."""
    folder = tmp_path_factory.mktemp("bad")
    for name, text in MODELS.items():
        (folder / name).write_text(text)
    (folder / "ragged.csv").write_text("a,b,c\n1,2,3\n4,5\n")
    (folder / "text.csv").write_text("a,b,c\n1,2,3\n4,five,6\n")
    (folder / "nan.csv").write_text("1,2,3\n4,nan,6\n")
    (folder / "fractions.csv").write_text("a,b\n" + "".join(f"{i},{i + 0.5}\n" for i in range(30)))
    (folder / "empty.csv").write_text("")
    (folder / "numbers.npz").write_text("no zip file")
    (folder / "words.doc").write_text("1,2\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n" * 99)
    (folder / "empty.md").write_text("")
    (folder / "cut.npdp-tokens").write_text(TOKENS)
    idx = folder / "idx"
    idx.mkdir()
    images = struct.pack(">HBBIII", 0, 8, 3, 5, 2, 2) + bytes(5 * 4 - 3)  # three bytes short
    (idx / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (idx / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 5) + bytes(5)))
    (folder / "directory.csv").mkdir()
    (folder / "nothing").mkdir()
    np.savez(folder / "uneven.npz", x=np.zeros((4, 2)), y=np.zeros(3))
    np.savez(folder / "objects.npz", x=np.array([{}, {}], object), y=np.zeros(2))
    return folder


# name -> (flags, what the line must say)
FLAGS = {
    "unknown flag": ("--no-such-flag 3", "unrecognized arguments: --no-such-flag 3 (see --help)"),
    "abbreviated flag": ("--epoch 3", "unrecognized arguments: --epoch 3; did you mean --epochs?"),
    "a flag as others call it": ("--lr=0.1", "unrecognized arguments: --lr=0.1; did you mean --learning-rate?"),
    "a context as others call it": ("--block-size 32", "did you mean --context?"),
    "a batch size without whose": ("--batch-size 32", "did you mean --global-batch-size?"),
    "word too much": ("digits", "unrecognized arguments: digits"),
    "unknown optimizer": ("--optimizer rmsprop", "--optimizer: invalid choice: 'rmsprop'"),
    "unknown algorithm": ("--algorithm magic", "--algorithm: invalid choice: 'magic'"),
    "pixels that are no square": (
        "--model cnn --data synthetic",
        "--model cnn: wanted square images, of 4 x 4 pixels or more, got 10 features",
    ),
    "rows of what is no square": (
        "--model gru --data synthetic",
        "--model gru: wanted square images, of 1 x 1 pixels or more, got 10 features",
    ),
    "hidden layers of a cnn": ("--model cnn --hidden 5", "--hidden is for --model mlp, this is --model cnn"),
    "unknown model": (
        "--model resnet", "wanted softmax, linear, mlp, cnn, gru, sparse_linear, gpt or file.py:function",
    ),
    "value missing": ("--epochs", "--epochs: expected one argument"),
    "batch 0": ("--global-batch-size 0", "--global-batch-size: wanted a whole number, at least 1, got '0'"),
    "batch in text": ("--global-batch-size many", "got 'many'"),
    "half an epoch": ("--epochs 1.5", "--epochs: wanted a whole number"),
    "negative epochs": ("--epochs -1", "--epochs: wanted a whole number"),
    "learning rate nan": ("--learning-rate nan", "--learning-rate: wanted a number"),
    "learning rate inf": ("--learning-rate inf", "got 'inf'"),
    "negative learning rate": ("--learning-rate=-0.1", "got '-0.1'"),
    "momentum 1": ("--momentum 1", "--momentum: wanted a number in [0, 1), got '1'"),
    "clip norm 0": ("--clip-norm 0", "--clip-norm: wanted a number above 0, got '0'"),
    "accumulate 0": ("--accumulate 0", "--accumulate: wanted a whole number, at least 1"),
    "a million ranks": ("--ranks 1000000", "--ranks: wanted at most "),
    "no ranks": ("--ranks 0", "--ranks: wanted a whole number, at least 1"),
    "hidden 0": ("--model mlp --hidden 5,0", "--hidden: wanted whole numbers, at least 1, as 512,512, got '5,0'"),
    "hidden in text": ("--model mlp --hidden wide", "got 'wide'"),
    "hidden with a gap": ("--model mlp --hidden 10,,3", "got '10,,3'"),
    "hidden layers of a softmax": ("--model softmax --hidden 10", "--hidden is for --model mlp, this is --model softm"),
    "hidden layers of a linear model": ("--model linear --hidden 10", "this is --model linear"),
    "hidden layers of the default model": ("--hidden 10", "--hidden is for --model mlp, no --model is given"),
    "float16": ("--dtype float16", "--dtype: invalid choice"),
    "test fraction 1": ("--test-fraction 1", "--test-fraction: wanted a number in [0, 1), got '1'"),
    "negative seed": ("--seed -1", "--seed: wanted a whole number"),
    "MPI's all-reduce in threads": ("--transport threads --algorithm mpi", "--transport threads has none"),
}
FILES = {
    "missing file": ("--data {folder}/missing.csv", "missing.csv: "),
    "missing folder": ("--data {folder}/missing/", "found nothing of that name"),
    "unknown kind of file": ("--data {folder}/words.doc", "got a file ending in .doc"),
    "truncated IDX": ("--data {folder}/idx", "train-images-idx3-ubyte.gz"),
    "ragged csv": ("--data {folder}/ragged.csv", "ragged.csv, line 3: expected 3 columns, got 2"),
    "text for a number": ("--data {folder}/text.csv",
                          "text.csv, line 3, column 2 ('b'): expected a number, got 'five'"),
    "nan in a csv": ("--data {folder}/nan.csv", "nan.csv, line 2, column 2: expected a finite number"),
    "empty csv": ("--data {folder}/empty.csv", "empty.csv"),
    "labels that are no integers": ("--data {folder}/fractions.csv --model softmax",
                                    "line 2: labels must be integers from 0 up, got 0.5"),
    "no such target": ("--data {folder}/fractions.csv --target price", "no target column 'price'"),
    "target of the digits": ("--target price", "can be chosen in .csv files only"),
    "directory for a file": ("--data {folder}/directory.csv", "directory.csv"),
    "folder without data": ("--data {folder}/nothing", "expected an IDX folder"),
    "no zip": ("--data {folder}/numbers.npz", "numbers.npz"),
    "uneven arrays": ("--data {folder}/uneven.npz", "expected 4 labels"),
    "empty text": ("--data {folder}/empty.md", "empty.md: expected a text, got an empty file"),
    "text in Latin-1": ("--data {folder}/latin.txt --tokenizer characters",
                        "latin.txt, byte 3: expected UTF-8 text, got byte 0xe9; the tokenizer bytes takes any"),
    "cut tokens": ("--data {folder}/cut.npdp-tokens", "bytes for 9 tokens, got 153: it was cut, or written to"),
    "no tokenizer": ("--data python-docs --tokenizer words",
                     "tokenizer: expected bytes, characters or bpe:N with N from 257 to 1048576, got words"),
    "long context": ("--data python-docs --context 90000",
                     "tokens, is too short: expected at least 90001 tokens, a context of 90000 and one more, got "),
    "target of a text": ("--data python-docs --target price", "python-docs: target is for tables, this is text"),
    "standardized text": ("--data python-docs --standardize", "python-docs: standardize is for tables"),
    "regression of a text": ("--data python-docs --task regression", "--model gpt is for classification"),
    "tokenizer of a table": ("--tokenizer bytes", "digits: tokenizer is for text, this is none"),
    "context of a table": ("--context 8 --data {folder}/fractions.csv", "fractions.csv: context is for text"),
    "looks at no held-out part": ("--evaluate-every 2 --test-fraction 0",
                                  "--evaluate-every: digits has no held-out part; --test-fraction gives one"),
    "layers of what is no text": ("--data {folder}/missing/ --layers 1",
                                  "no --model is given and --data {folder}/missing/ is no text"),
    "model of tables": ("--data python-docs --model softmax",
                        "--model softmax: the data is text: wanted gpt or file.py:function"),
    "pickled objects": ("--data {folder}/objects.npz", "objects.npz"),
    "no model file": ("--model {folder}/missing.py:make", "--model: no file"),
    "model file without function's name": ("--model {folder}/raises.py", "gpt or file.py"),
    "directory for a model file": ("--model {folder}/nothing:make", "file.py:function"),
    "model file with a mistake": ("--model {folder}/syntax.py:make", "syntax.py: SyntaxError: invalid syntax"),
    "model file that imports what is missing": ("--model {folder}/imports.py:make",
                                                "imports.py, line 2: ModuleNotFoundError: No module named"),
    "model file without the function": ("--model {folder}/raises.py:build", "raises.py has no function build"),
    "no function": ("--model {folder}/number.py:make", "number.py has no function make"),
    "model function that raises": ("--model {folder}/raises.py:make", "raises.py:make failed: KeyError:"),
    "model function that exits": ("--model {folder}/exits.py:make", "exits.py:make failed: SystemExit: 5"),
    "model file that exits": ("--model {folder}/exits_at_import.py:make", "line 2: SystemExit: 5"),
    "model function that asks for more": ("--model {folder}/asks.py:make",
                                          "asks.py:make asks for depth: it may ask for features, classes"),
    "no module": ("--model {folder}/list.py:make", "must return an npdp.nn.Module, got list"),
    "module without parameters": ("--model {folder}/empty.py:make", "has no parameters to train"),
    "model of other features": ("--model {folder}/narrow.py:Narrow",
                                "narrow.py:Narrow does not fit the data: ValueError: Linear: wanted an input of shape "
                                "(..., 10), got (2, 64) ({folder}/narrow.py, line 7)"),
    "model of fewer classes": ("--model {folder}/few.py:make --strategy ps --servers 0",
                               "does not fit the data: ValueError: CrossEntropyLoss: labels must be in [0, 9), got 9"),
    "model of more numbers": ("--model {folder}/wide.py:make --data synthetic", "does not fit the data: ValueError: "
                              "MSELoss: outputs have shape (2, 2), targets (2, 1); they must be the same"),
    "metrics on a directory": ("--metrics {folder}/nothing", "--metrics: wanted a file to write, "),
    "metrics in a missing directory": ("--metrics {folder}/missing/m.jsonl", "--metrics: wanted a file to write, but"),
    "save on a directory": ("--save {folder}/nothing", "--save: wanted a file to write, "),
    "save in a missing directory": ("--save {folder}/missing/model.npz", "but there is no directory"),
}
ALL = FLAGS | FILES


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


@pytest.mark.parametrize("where", ["", "--transport threads --ranks 3"])
@pytest.mark.parametrize("case", ALL)
def test_it_is_refused_in_one_line_and_nothing_is_written(case, where, folder, tmp_path, capsys):
    text, said = ALL[case]
    flags = text.format(folder=folder).split()
    for flag in ("metrics", "save"):
        if f"--{flag}" not in flags:
            flags = [f"--{flag}", f"{tmp_path}/{flag}", *flags]
    before = names(folder)
    assert said.format(folder=folder) in refusal(capsys, train.main, *where.split(), *flags)
    assert not list(tmp_path.iterdir()) and names(folder) == before


@pytest.mark.parametrize("case", ["unknown flag", "batch 0", "ragged csv", "model function that raises"])
def test_the_command_refuses_as_the_module_does(case, folder, capsys):
    flags, said = ALL[case]
    assert said in refusal(capsys, cli.main, "train", *flags.format(folder=folder).split())


def test_a_mistake_in_a_model_file_is_told_with_its_line_where_the_path_is_relative(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert "imports.py, line 2: ModuleNotFoundError" in refusal(capsys, train.main, "--model", "imports.py:make")
    assert "(raises.py, line " in refusal(capsys, train.main, "--model", "raises.py:make")


def test_the_process_ends_with_2_and_no_traceback(folder):
    for flags in (["-m", "npdp.train", "--data", f"{folder}/ragged.csv"], ["-m", "npdp", "train", "--epochs", "x"]):
        done = subprocess.run([sys.executable, *flags], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"npdp: error: [^\n]+\n", done.stderr)
