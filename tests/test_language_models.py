"""Language models from the command line: trained alike on any number of ranks, scored, saved, and gone on with."""

import numpy as np
import pytest
from launching import exit_code, refusal
from texts import write
from training import fit

from npdp.app import cli, inference, saved_model, train
from npdp.app.generation import UNSEEN, text_of
from npdp.base.errors import InputError

WORDS = ("one two three four five six seven eight nine ten " * 40).strip()
SMALL = ("--model", "gpt", "--layers", "1", "--heads", "2", "--width", "16", "--context", "8", "--epochs", "2",
         "--global-batch-size", "7", "--quiet")  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write(tmp_path_factory.mktemp("text") / "numbers.txt", WORDS)


@pytest.fixture(scope="module")
def model(text, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("model") / "model.npz")
    flags = ("--data", text, "--tokenizer", "characters", "--save", path, "--learning-rate", "0.01")
    assert exit_code(train.main, *SMALL, *flags) == 0
    return path


# Training
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("flags", [(), ("--dropout", "0.2", "--positions", "rotary"), ("--accumulate", "2")])
def test_any_number_of_ranks_trains_the_model_of_one(text, ranks, flags):
    flags = ("--data", text, *SMALL, "--dtype", "float64", "--optimizer", "sgd", *flags)
    wanted, got = fit(*flags), fit(*flags, ranks=ranks)
    np.testing.assert_allclose(got.parameters, wanted.parameters, rtol=1e-9, atol=1e-11)
    assert got.end["samples_seen"] == wanted.end["samples_seen"]


def test_metrics_say_bits_per_byte_and_tokens_a_second(text):
    end = fit("--data", text, *SMALL).end
    assert end["test_bits_per_byte"] == pytest.approx(end["test_loss"] / np.log(2))  # a token is a byte
    assert end["tokens_per_s"] == pytest.approx(end["samples_per_s"] * 8)
    assert 0 <= end["test_accuracy"] <= 1 and end["share_of_peak"] > 0


def test_text_without_a_model_is_for_gpt_and_flags_have_its_defaults(text):
    start = fit("--data", text, "--epochs", "0", "--quiet").events[0]
    assert (start["model"], start["optimizer"], start["weight_decay"]) == ("gpt", "adamw", 0.1)
    assert (start["clip_norm"], start["learning_rate"]) == (1.0, 0.001)


@pytest.mark.parametrize("flags", [("--strategy", "ps"), ("--update", "fused")])
def test_where_gradients_cannot_be_clipped_a_gpt_is_trained_without(text, flags):
    got = fit("--data", text, *SMALL, *flags, ranks=2)
    assert got.events[0]["clip_norm"] is None and got.end["iterations"] > 0


def test_biases_and_norms_do_not_decay(text):
    flags = ("--data", text, *SMALL, "--optimizer", "sgd", "--learning-rate", "0.1", "--momentum", "0")
    light, heavy = (fit(*flags, "--epochs", "1", "--weight-decay", decay).arrays for decay in ("0", "0.5"))
    shrunk = {name: np.linalg.norm(heavy[name]) / np.linalg.norm(light[name]) for name in light if "parameter" in name}
    assert shrunk["parameter/tokens.weight"] < 0.9 and shrunk["parameter/norm.weight"] > 0.99


@pytest.mark.parametrize("ranks", [1, 3])
def test_scores_during_training_are_those_of_its_parameters_and_the_best_ones_are_saved(text, ranks, tmp_path):
    flags = ("--data", text, *SMALL, "--learning-rate", "0.5", "--lr-schedule", "constant", "--evaluate-every", "2")
    got = fit(*flags, ranks=ranks)  # which diverges, so that the first are the best
    looks = [event for event in got.events if event["event"] == "evaluation"]
    assert [look["iteration"] for look in looks] == list(range(2, got.end["iterations"] + 1, 2))
    best = min(look["test_loss"] for look in looks)
    assert best < got.end["test_loss"]
    path = tmp_path / "best.npz"
    np.savez(path, **got.arrays)
    assert f"loss {best:.4f}" in evaluated(str(path), text)


@pytest.mark.parametrize("on_nan", ["raise", "skip"])
def test_the_best_parameters_are_saved_of_a_training_that_ends_in_nan(on_nan):
    got = fit("--data", "digits", "--model", "mlp", "--hidden", "8", "--learning-rate", "1e12",
              "--epochs", "1", "--evaluate-every", "1", "--quiet", "--on-nan", on_nan)  # fmt: skip
    looks = [event["test_loss"] for event in got.events if event["event"] == "evaluation"]
    assert got.code == 1 and isinstance(looks[0], float) and looks[-1] is None  # JSON has no NaN
    assert got.end["event"] == {"raise": "not_finite", "skip": "end"}[on_nan]
    assert all(np.isfinite(values).all() for name, values in got.arrays.items() if name.startswith("parameter/"))


def evaluated(path, text, trust=False):
    return inference.evaluate(path, text, None, "test", None, 0, trust)


def test_samples_of_text_are_printed(text, capsys):
    assert exit_code(train.main, *SMALL[:-1], "--data", text, "--sample-every", "5", "--epochs", "1") == 0
    out = capsys.readouterr().out  # of bytes drawn nearly at random
    assert "\n" in out and not any(chr(code) in out for code in UNSEEN)


@pytest.mark.parametrize("main", [(cli.main, "train"), (train.main, "--transport", "threads")])
def test_a_run_is_estimated_without_training(text, capsys, main):
    assert exit_code(*main, *SMALL, "--data", text, "--ranks", "4", "--estimate") == 0
    out = capsys.readouterr().out
    assert "activations of 2 samples" in out and "a model of 7 G parameters" in out and "fused" in out


# What was saved
def test_a_saved_model_scores_as_at_the_end_of_its_training(text, tmp_path):
    path = str(tmp_path / "model.npz")
    end = fit("--data", text, *SMALL)
    np.savez(path, **end.arrays)
    assert f"loss {end.end['test_loss']:.4f}" in evaluated(path, text)
    assert f"{end.end['test_bits_per_byte']:.4f} bits per byte" in evaluated(path, text)


def test_a_users_own_model_of_text_is_scored_as_at_the_end_of_its_training(text, tmp_path):
    program = write(tmp_path / "mine.py", "from npdp import nn\n\ndef make(features, classes):\n"
                    "    return nn.Sequential(nn.Embedding(classes, 4), nn.Linear(4, classes))\n")  # fmt: skip
    end = fit("--data", text, "--model", f"{program}:make", "--context", "8", "--epochs", "1", "--quiet")
    np.savez(tmp_path / "mine.npz", **end.arrays)
    said = inference.evaluate(str(tmp_path / "mine.npz"), text, None, "test", None, 0, trust=True)
    assert f"loss {end.end['test_loss']:.4f}" in said and "bits per byte" in said


def test_generated_text_goes_on_from_the_prompt_and_is_the_same_for_the_same_seed(model, capsys):
    texts = []
    for seed in (1, 1, 2):
        flags = ("--prompt", "one two ", "--tokens", "30", "--temperature", "1.5", "--seed", str(seed))
        assert exit_code(cli.main, "generate", model, *flags) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2] and texts[0].startswith("one two ") and len(texts[0]) == 8 + 30 + 1


def test_characters_of_several_tokens_come_whole(text, tmp_path):
    path = str(tmp_path / "bytes.npz")
    assert exit_code(train.main, *SMALL, "--data", text, "--save", path, "--epochs", "0") == 0
    assert "".join(text_of(path, "é", 40, 5.0, None, 0)).startswith("é")


@pytest.mark.parametrize("flags", [("--update", "fused"), ("--strategy", "ps")])
def test_gradients_are_not_clipped_by_default_where_they_cannot_be(text, flags):
    assert fit("--data", text, *SMALL, "--epochs", "1", *flags, ranks=2).events[0]["clip_norm"] is None


def test_a_model_that_gives_nan_goes_on_with_no_text(model, text, tmp_path, capsys):
    path = str(tmp_path / "nan.npz")
    with np.load(model) as file:
        arrays = dict(file)
    arrays["parameter/norm.weight"][:] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="no answer but NaN"):
        list(text_of(path, "one", 5, 1.0, None, 0))
    flags = ("--data", text, "--learning-rate", "1e30", "--epochs", "1", "--sample-every", "5", "--on-nan", "skip")
    assert train.main([*SMALL[:-1], *flags]) == 1
    assert "no sample: the model has no answer but NaN" in capsys.readouterr().out


# What is refused
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--prompt", "ONE"), "'O'"),
        (("--prompt", ""), "--prompt: wanted at least one character to go on from"),
        (("--temperature", "-1"), "--temperature"),
    ],
)
def test_a_prompt_that_cannot_be_gone_on_with_is_refused(model, flags, said, capsys):
    assert said in refusal(capsys, cli.main, "generate", model, *flags)


def test_a_model_of_tables_goes_on_with_no_text(tmp_path, capsys):
    path = str(tmp_path / "digits.npz")
    assert exit_code(train.main, "--quiet", "--epochs", "0", "--save", path) == 0
    assert "softmax, is no language model: wanted a gpt" in refusal(capsys, cli.main, "generate", path)


OWN = """
from npdp import nn
from npdp.models.gpt import GPT

def gpt(features, classes):
    return GPT(vocabulary=classes, context=features, layers=1, heads=2, width=8)

def pairs(classes):
    return nn.Embedding(classes, classes)
"""


@pytest.mark.parametrize("function", ["gpt", "pairs"])
def test_a_model_of_text_of_ones_own_is_scored_and_a_gpt_goes_on(text, function, tmp_path, capsys):
    path, flags = str(tmp_path / "model.npz"), ("--epochs", "1", "--quiet", "--save")
    program = write(tmp_path / "own.py", OWN)
    assert exit_code(train.main, "--data", text, "--model", f"{program}:{function}", *flags, path) == 0
    assert "bits per byte" in evaluated(path, text, trust=True)
    assert "--trust" in refusal(capsys, cli.main, "generate", path)
    if function == "pairs":
        assert "is no language model: wanted a gpt" in refusal(capsys, cli.main, "generate", path, "--trust")
    else:
        assert exit_code(cli.main, "generate", path, "--trust", "--prompt", "one", "--tokens", "9") == 0
        assert capsys.readouterr().out.startswith("one")


def test_a_language_model_is_scored_on_no_table(model, capsys):
    assert "digits: a language model is for text, this is none: python-docs, a folder" in refusal(
        capsys, cli.main, "evaluate", model
    )


def test_a_terminal_is_not_steered_by_what_a_model_draws(model, capsys, monkeypatch):
    drawn = "a\x1bc\x0e\x9b\tb\r\n"
    monkeypatch.setattr("npdp.app.generation.text_of", lambda *_: iter([drawn]))
    shown = []
    for is_terminal in (True, False):
        monkeypatch.setattr("sys.stdout.isatty", lambda is_terminal=is_terminal: is_terminal)
        assert exit_code(cli.main, "generate", model) == 0
        shown.append(capsys.readouterr().out)
    assert shown == ["a\ufffdc\ufffd\ufffd\tb\r\n\n", drawn + "\n"]


def test_a_language_model_predicts_no_classes(model, capsys):
    assert "is a language model: `npdp generate`" in refusal(capsys, cli.main, "predict", model, "digits")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--heads", "3"), "--model gpt: cannot be made: width must be a multiple of the heads, got width 16"),
        (("--positions", "rotary", "--heads", "16"), "a multiple of twice the heads, got width 16 and 16 heads"),
        (("--data", "digits"), "digits: context is for text, this is none"),
        (("--strategy", "ps", "--clip-norm", "1", "--evaluate-every", "2"), "--strategy ps adds gradients up"),
        (("--test-fraction", "0", "--evaluate-every", "2"), "has no held-out part; --test-fraction gives one"),
        (("--strategy", "local-sgd", "--evaluate-every", "2"), "--strategy local-sgd has ranks at different"),
    ],
)
def test_flags_that_fit_no_language_model_are_refused(text, flags, said, capsys):
    assert said in refusal(capsys, train.main, "--data", text, *SMALL, *flags)


def test_flags_of_a_language_model_are_for_no_other(capsys):
    assert "--layers is for --model gpt, this is --model mlp" in refusal(
        capsys, train.main, "--model", "mlp", "--layers", "2"
    )
    assert "--sample-every is for models of text" in refusal(capsys, train.main, "--sample-every", "2")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"tokenizer": "none"}, "a description whose tokenizer is none"), ({"layers": 0}, "layers 0"),
     ({"width": 10**6}, "expected a gpt of at least")],
)  # fmt: skip
def test_a_file_that_is_no_language_model_is_refused_by_name(model, change, said, tmp_path):
    import json

    with np.load(model) as file:
        arrays = dict(file)
    description = json.loads(str(arrays["description"]))
    arrays["description"] = np.array(json.dumps(description | change))
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(Exception, match=said):
        saved_model.load(str(tmp_path / "wrong.npz"))
