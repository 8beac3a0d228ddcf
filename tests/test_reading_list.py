"""The README's reading list is closed: what a training step enters is on it, or behind one of three doors."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import needs_shared_memory

import npdp
from npdp import nn, optim
from npdp.base.partition import part
from npdp.data import ArrayDataset, DataLoader

ROOT = Path(npdp.__file__).parent
README = (ROOT.parent / "README.md").read_text()
DOORS = ("kernels/", "comm/failures/", "parallel/consistency.py")  # arithmetic, mistakes, whether replicas are alike


def reading_list():
    """Return the files of the README's list, by their paths under npdp/."""
    (text,) = re.findall(r"best read in this order:(.*?)\. A step", README, re.S)
    rooms = re.findall(r"`(\w+)/`\s+([\w,\s]+)", text)
    return [f"{room}/{name}.py" for room, names in rooms for name in re.findall(r"\w+", names) if name != "in"]


def entered(algorithm, ranks=2):
    """Return what every rank's sixth iteration enters: (file, line, name) of forward, and of backward and step."""

    def program():
        x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
        model = nn.Linear(4, 1)
        criterion, optimizer = nn.MSELoss(), optim.SGD(model.parameters(), lr=0.01)
        model = nn.DataParallel(model)
        found = [set(), set()]

        def into(functions):
            def note(frame, event, argument):
                code = frame.f_code
                if event == "call" and code.co_filename.startswith(str(ROOT)):
                    file = Path(code.co_filename).relative_to(ROOT).as_posix()
                    functions.add((file, code.co_firstlineno, code.co_name))

            sys.setprofile(note)

        try:
            for iteration, (inputs, labels) in enumerate(DataLoader(ArrayDataset(x, x[:, :1]), 8)):
                optimizer.zero_grad()
                if iteration == 5:
                    into(found[0])
                loss = criterion(model(inputs), labels)
                if iteration == 5:
                    into(found[1])
                loss.backward()
                optimizer.step()
                sys.setprofile(None)
        finally:
            sys.setprofile(None)
        return found

    everyones = npdp.run_ranks(ranks, program, algorithm=algorithm)
    return [{each for each in set().union(*some) if not each[0].startswith(DOORS)} for some in zip(*everyones)]


def test_what_a_step_enters_is_on_the_list_or_behind_a_door():
    forward, rest = entered("ring")
    listed = reading_list()
    assert {file for file, *_ in forward | rest} <= set(listed)
    assert len(listed) == len(set(listed)) and all((ROOT / file).is_file() for file in listed)


def test_the_list_can_be_read_in_an_afternoon():
    assert sum(len((ROOT / file).read_text().splitlines()) for file in reading_list()) <= 4500


@pytest.mark.parametrize(("algorithm", "functions", "files"), [
    ("ring", 40, 15), pytest.param("shared_memory", 25, 11, marks=needs_shared_memory)
])  # fmt: skip
def test_a_backward_and_a_step_enter_few_functions(algorithm, functions, files):
    _, rest = entered(algorithm)
    assert len(rest) <= functions and len({file for file, *_ in rest}) <= files, sorted(rest)


def test_a_file_that_is_not_listed_is_found(monkeypatch):
    linear = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, inputs: linear(self, inputs) if part(1, 1, 0) else None)
    assert {file for file, *_ in entered("ring")[0]} - set(reading_list()) == {"base/partition.py"}
