"""Columns of a table: found by the names that a model was trained on, an index left out, targets as asked for."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from data_files import in_file, npz_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from npdp.app import cli, inference, saved_model, train
from npdp.base.errors import InputError
from npdp.data.sources import load

NAMES = ("a", "b", "c", "price")
WEIGHT = np.array([2.0, -3.0, 0.5])
LEFT_OUT = "the first column, which has no name, is taken for an index and left out"


def table_of(rows: int = 60) -> dict[str, np.ndarray]:
    x = np.random.default_rng(5).standard_normal((rows, 3))
    return dict(zip(NAMES, [*x.T, x @ WEIGHT + 1]))


def csv_of(columns: dict[str, np.ndarray], order=NAMES, header: bool = True, index: str | None = None) -> str:
    """Return a table as CSV, its columns in some order; with an index as pandas writes it, under that name."""
    rows = np.column_stack([columns[name] for name in order]).tolist()
    lines = [",".join(order)] * header + [",".join(map(repr, row)) for row in rows]
    if index is not None:
        lines = [f"{first},{line}" for first, line in zip([index, *range(len(rows))], lines)]
    return "\n".join(lines) + "\n"


def trained(folder: Path, content: str, *flags: str) -> str:
    (folder / "train.csv").write_text(content)
    out = (f"--data={folder}/train.csv", f"--save={folder}/model.npz", "--dtype=float64")
    with mock.patch.dict(os.environ):
        assert train.main(["--quiet", "--epochs=20", "--learning-rate=0.05", *out, *flags]) == 0
    return f"{folder}/model.npz"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return trained(tmp_path_factory.mktemp("columns"), csv_of(table_of()), "--standardize")


def scores(model: str, path: str, target: str | None = None) -> str:
    return inference.evaluate(model, path, target, "all", 0.2, 0)


def answers(model: str, path: str, target: str | None = None, **say) -> str:
    return inference.predict(model, path, target, False, **say)


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(NAMES), index=st.sampled_from([None, "", "Unnamed: 0"]))
def test_a_table_whose_columns_come_in_another_order_is_scored_and_predicted_the_same(model, order, index):
    with tempfile.TemporaryDirectory() as folder:
        wanted = in_file("same.csv", csv_of(table_of()))(Path(folder))
        other = in_file("other.csv", csv_of(table_of(), order, index=index))(Path(folder))
        bare = in_file("bare.csv", csv_of(table_of(), [name for name in order if name != "price"]))(Path(folder))
        assert scores(model, other) == scores(model, wanted)
        assert answers(model, wanted) == answers(model, other) == answers(model, bare)


def test_the_names_of_columns_are_saved_with_the_model(model):
    description = saved_model.load(model).description
    assert (description["columns"], description["target"]) == (["a", "b", "c"], "price")


@pytest.mark.parametrize("order, said", [
    (("a", "c", "price"), "got no column 'b'$"),
    (("a", "b", "c", "d", "price"), "got a column too much: 'd'$"),
    (("a", "b", "b", "c", "price"), "got a column too much: 'b'$"),
    (("a", "c", "d", "price"), "got no column 'b'; a column too much: 'd'$"),
])  # fmt: skip
def test_missing_and_extra_columns_are_refused_by_name(model, tmp_path, order, said):
    path = in_file("d.csv", csv_of({**table_of(), "d": np.ones(60)}, order))(tmp_path)
    for use in (scores, answers):
        with pytest.raises(InputError, match=f"d.csv: expected the columns that the model was trained on, {said}"):
            use(model, path)


def test_a_target_of_another_name_is_asked_for_to_score_and_named_to_predict(model, tmp_path):
    columns = table_of()
    columns["cost"] = columns.pop("price")
    path = in_file("d.csv", csv_of(columns, ("cost", "c", "b", "a")))(tmp_path)
    with pytest.raises(InputError, match="no target column 'price': the header has 'cost', 'c', 'b', 'a'"):
        scores(model, path)
    same = in_file("same.csv", csv_of(table_of()))(tmp_path)
    assert scores(model, path, target="cost") == scores(model, same)
    with pytest.raises(InputError, match="a column too much: 'cost'"):
        answers(model, path)
    assert answers(model, path, target="1") == answers(model, same)


def test_without_a_header_columns_are_taken_by_their_place(model, tmp_path):
    same = in_file("same.csv", csv_of(table_of()))(tmp_path)
    path = in_file("d.csv", csv_of(table_of(), header=False))(tmp_path)
    assert scores(model, path) == scores(model, same)
    bare = in_file("bare.csv", csv_of(table_of(), NAMES[:3], header=False))(tmp_path)
    assert answers(model, path) == answers(model, bare) == answers(model, same)


@pytest.mark.parametrize("content", [
    csv_of(table_of(), header=False), csv_of(table_of()).replace("a,b,c", "a,a,c")])  # fmt: skip
def test_a_model_of_columns_without_a_name_of_their_own_takes_them_by_their_place(tmp_path, content):
    model = trained(tmp_path, content)
    assert saved_model.load(model).columns is None
    path = in_file("d.csv", csv_of(table_of(), ("b", "a", "c", "price")))(tmp_path)
    assert len(answers(model, path).splitlines()) == 60


@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
def test_an_unnamed_index_column_is_left_out_and_said(model, tmp_path, capsys, index):
    path = in_file("train.csv", csv_of(table_of(), index=index))(tmp_path)
    split, same = load(path), load(in_file("same.csv", csv_of(table_of()))(tmp_path))
    assert split.train.fingerprint() == same.train.fingerprint()
    assert split.notes == (f"{path}: {LEFT_OUT}",) and same.notes == ()
    assert cli.main(["train", "--epochs=1", f"--data={path}"]) == 0
    assert f"  note      {path}: {LEFT_OUT}\n" in capsys.readouterr().out
    for arguments in (["evaluate", model, "--data", path], ["predict", model, path]):
        assert cli.main(arguments) == 0
        captured = capsys.readouterr()
        assert captured.err == f"npdp: note: {path}: {LEFT_OUT}\n" and LEFT_OUT not in captured.out


@pytest.mark.parametrize("content, features", [
    (",a,y\n1,2,3\n2,3,4\n", 2),  # does not count from 0
    ("n,a,y\n0,2,3\n1,3,4\n", 2),  # has a name
    ("0,2,3\n1,3,4\n", 2),  # no header
    (",a,y\n0,2,3\n1,3,4\n", 1),
])  # fmt: skip
def test_only_what_looks_like_an_index_is_left_out(tmp_path, content, features):
    split = load(in_file("d.csv", content)(tmp_path), test_fraction=0)
    assert split.train.sample_shape == (features,) and bool(split.notes) == (features == 1)


def test_a_first_column_without_a_name_may_be_the_target_that_is_asked_for(tmp_path):
    split = load(in_file("d.csv", ",a,y\n0,2,3\n1,3,4\n")(tmp_path), target="1", test_fraction=0)
    assert split.train.y.ravel().tolist() == [0, 1] and split.train.sample_shape == (2,) and not split.notes


def test_a_column_without_a_name_that_the_model_was_trained_on_is_no_index(tmp_path):
    columns = {"": np.arange(60.0) - 3, **table_of()}
    model = trained(tmp_path, csv_of(columns, ("", *NAMES)), "--standardize")
    path = in_file("one.csv", csv_of({name: values[3:4] for name, values in columns.items()}, ("", *NAMES)))(tmp_path)
    said: list[str] = []
    assert len(answers(model, path, say=said.append).splitlines()) == 1 and not said


WHOLE = "a,y\n" + "".join(f"{i},{i % 25}\n" for i in range(900))


def test_whole_numbers_with_many_values_are_taken_for_classes_and_said(tmp_path, capsys):
    path = in_file("d.csv", WHOLE)(tmp_path)
    assert cli.main(["train", "--epochs=0", f"--data={path}"]) == 0
    out = capsys.readouterr().out
    assert "25 classes" in out and "the target's 25 different whole numbers are taken for classes: --task regr" in out
    npz = in_file("d.npz", npz_bytes(x=np.zeros((900, 1)), y=np.arange(900) % 25))(tmp_path)
    assert len(load(npz).notes) == 1
    few = in_file("few.csv", WHOLE.replace(",24\n", ",0\n"))(tmp_path)
    assert load(few, task="classification").notes == load(path, task="regression").notes == ()
    assert load(in_file("ten.csv", "".join(f"{i},{i % 10}\n" for i in range(90)))(tmp_path)).notes == ()


def test_a_task_that_is_asked_for_says_what_targets_are(tmp_path, capsys):
    path = in_file("d.csv", WHOLE)(tmp_path)
    for task, said in {"regression": "regression, ", "classification": "25 classes, "}.items():
        assert cli.main(["train", "--epochs=0", f"--data={path}", f"--task={task}"]) == 0
        out = capsys.readouterr().out
        assert said in out and "note" not in out


@pytest.mark.parametrize("flags, said", [
    ("--task regression --model softmax", "--task regression: --model softmax is for classification"),
    ("--task classification --model linear", "--task classification: --model linear is for regression"),
    ("--task ranking", "--task: invalid choice: 'ranking'"),
])  # fmt: skip
def test_a_task_that_the_model_is_not_for_is_refused(capsys, flags, said):
    assert train.main(flags.split()) == 2
    assert said in capsys.readouterr().err
