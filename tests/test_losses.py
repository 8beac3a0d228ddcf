"""Losses: empty parts, reductions that agree, exact targets, and by name what does not fit."""

import re

import numpy as np
import pytest

from npdp import nn
from npdp.autograd import Tensor


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (nn.MSELoss, np.zeros((0, 3))), (nn.BCEWithLogitsLoss, np.zeros((0, 3))),
        (nn.CrossEntropyLoss, np.zeros(0, np.int64)), (nn.L1Loss, np.zeros((0, 3))),
        (nn.NLLLoss, np.zeros(0, np.int64)),
    ],
)  # fmt: skip
def test_a_loss_over_no_samples_is_zero_with_zero_gradients(loss, labels, dtype, reduction):
    layer = nn.Linear(2, 3, dtype=dtype)
    labels = labels if labels.dtype == np.int64 else labels.astype(dtype)
    value = loss(reduction=reduction)(layer(np.zeros((0, 2), dtype)), labels).sum()
    assert value.item() == 0.0 and value.dtype == dtype
    value.backward()
    for parameter in layer.parameters():
        assert parameter.grad.dtype == dtype and not parameter.grad.any()


@pytest.mark.parametrize(("loss", "targets", "said"), [
    (nn.NLLLoss(), np.array([0, 3]), r"NLLLoss: labels must be in \[0, 3\), got 3"),
    (nn.NLLLoss(), np.array([0]), r"NLLLoss: wanted logits \(rows, classes\)"),
    (nn.L1Loss(), np.zeros((2, 1)), r"L1Loss: outputs have shape \(2, 3\), targets \(2, 1\)"),
])  # fmt: skip
def test_a_loss_refuses_what_does_not_fit_by_its_own_name(loss, targets, said):
    with pytest.raises(ValueError, match=said):
        loss(Tensor(np.zeros((2, 3), np.float32)), targets)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_binary_loss_has_its_slope_also_at_zero(reduction):
    logits = Tensor(np.zeros(2), requires_grad=True)
    nn.BCEWithLogitsLoss(reduction)(logits, np.array([0.0, 1.0])).sum().backward()
    np.testing.assert_allclose(logits.grad, np.array([0.5, -0.5]) / (2 if reduction == "mean" else 1))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.MSELoss, np.arange(6.0).reshape(2, 3)), (nn.BCEWithLogitsLoss, np.arange(6.0).reshape(2, 3) / 6),
        (nn.CrossEntropyLoss, np.array([0, 2])),
        (lambda reduction: nn.CrossEntropyLoss(reduction=reduction, label_smoothing=0.3), np.array([0, 2])),
    ],
    ids=["mse", "bce", "cross entropy", "label smoothing"],
)  # fmt: skip
def test_the_reductions_of_a_loss_agree(loss, targets):
    found = []
    for reduction, scale in (("mean", targets.size), ("sum", 1), ("none", 1)):
        x = Tensor(np.array([[0.3, -1, 2], [0, 1.5, -0.2]]), requires_grad=True)
        each = loss(reduction=reduction)(x, targets)
        assert each.shape == (targets.shape if reduction == "none" else ())
        (each.sum() * scale).backward()
        found.append((each.data.sum() * scale, x.grad))
    for total, gradient in found[1:]:
        np.testing.assert_allclose(total, found[0][0], rtol=1e-12)
        np.testing.assert_allclose(gradient, found[0][1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("classes", [3, 64, 65, 200])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_that_of_log_softmax_for_few_classes_and_many(classes, smoothing):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 7)
    whole, parts = (nn.Parameter(np.random.default_rng(1).standard_normal((7, classes))) for _ in range(2))
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)(whole, labels)
    expected = nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)(parts, labels).mean()
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(loss.data, expected.data, rtol=1e-12)
    np.testing.assert_allclose(whole.grad, parts.grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", [nn.MSELoss, nn.L1Loss, nn.BCEWithLogitsLoss])
def test_targets_in_a_list_are_as_exact_as_in_an_array(loss, reduction):
    outputs, targets = Tensor(np.array([1.0, 0.5, -2.0])), [0.1, 0.2, 0.3]
    assert loss(reduction)(outputs, targets).item() == loss(reduction)(outputs, np.array(targets)).item()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_class_that_is_ruled_out_by_minus_infinity_has_no_part_in_the_loss(reduction):
    logits = nn.Parameter(np.array([[-np.inf, 0, 0], [2, -np.inf, -np.inf]]))
    loss = nn.CrossEntropyLoss(reduction=reduction)(logits, np.array([2, 0]))
    loss.sum().backward()
    share = 0.5 if reduction == "mean" else 1
    np.testing.assert_allclose(loss.sum().data, share * np.log(2))
    np.testing.assert_allclose(logits.grad, [[0, share / 2, -share / 2], [0, 0, 0]])


# Errors
def logits(*shape):
    return Tensor(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "MSELoss: reduction must be mean, sum or none, got 'avg'", lambda: nn.MSELoss("avg")),
        (ValueError, r"MSELoss: reduction must be mean, sum or none, got array\(\[1., 2.\]\)",
         lambda: nn.MSELoss(np.array([1.0, 2.0]))),
        (ValueError, r"^CrossEntropyLoss: weight must be numbers .* got 'none'; reduction is a keyword: "
         r"CrossEntropyLoss\(reduction='none'\)$", lambda: nn.CrossEntropyLoss("none")),
        (ValueError, r"^CrossEntropyLoss: weight must be numbers of at least 0, one a class, got \[1.0, -1.0\]$",
         lambda: nn.CrossEntropyLoss([1.0, -1.0])),
        (ValueError, r"^CrossEntropyLoss: weight must be numbers .* got \[inf, nan\]$",
         lambda: nn.CrossEntropyLoss([np.inf, np.nan])),
        (ValueError, r"^CrossEntropyLoss: weight must be numbers .* got 0.5$", lambda: nn.CrossEntropyLoss(0.5)),
        (ValueError, r"label_smoothing wanted weights above 0, got \[0, 1\]; .* leave its rows out by ignore_index",
         lambda: nn.CrossEntropyLoss([0, 1], label_smoothing=0.1)),
        (ValueError, "^CrossEntropyLoss: wanted as many weights as classes, 3, got 2$",
         lambda: nn.CrossEntropyLoss([1.0, 2.0])(logits(2, 3), [0, 1])),
        (TypeError, "^CrossEntropyLoss: ignore_index must be a whole number, or None, got 1.5$",
         lambda: nn.CrossEntropyLoss(ignore_index=1.5)),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got -100$",
         lambda: nn.CrossEntropyLoss(ignore_index=-1)(logits(2, 3), [-1, -100])),
        (ValueError, r"MSELoss: outputs have shape \(2, 1\), targets \(2,\)",
         lambda: nn.MSELoss()(logits(2, 1), np.zeros(2))),
        (ValueError, r"MSELoss: outputs have shape \(2, 1\), targets \(2,\)",
         lambda: nn.MSELoss("sum")(logits(2, 1), np.zeros(2))),
        (ValueError, r"outputs have shape \(2, 1\), targets \(2,\)",
         lambda: nn.functional.mse_loss(logits(2, 1), np.zeros(2))),
        (ValueError, "BCEWithLogitsLoss: outputs have shape", lambda: nn.BCEWithLogitsLoss()(logits(2), logits(3))),
        (ValueError, r"label_smoothing must be in \[0, 1\], got 2", lambda: nn.CrossEntropyLoss(label_smoothing=2)),
        (TypeError, "logits must be floats, got int64", lambda: nn.CrossEntropyLoss()(np.zeros((2, 3), int), [0, 1])),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got 3",
         lambda: nn.CrossEntropyLoss()(logits(2, 3), [0, 3])),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got -1",
         lambda: nn.CrossEntropyLoss()(logits(2, 3), [-1, 0])),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got 255",
         lambda: nn.CrossEntropyLoss()(logits(2, 3), np.array([0, 255], np.uint8))),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got 18446744073709551615",
         lambda: nn.CrossEntropyLoss()(logits(2, 3), np.array([0, 2**64 - 1], np.uint64))),
        (ValueError, r"^CrossEntropyLoss: labels must be in \[0, 3\), got -1",
         lambda: nn.CrossEntropyLoss(reduction="none")(logits(2, 3), [-1, 0])),
    ],
)  # fmt: skip
def test_mistakes_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("shape", "labels"),
    [((3, 4), [0, 1]), ((2, 3), [0, 1, 2]), ((3, 4), [0]), ((3, 4), 0), ((3, 4), [[0], [1], [2]]),
     ((3,), [0, 1, 2]), ((3, 0), [0, 0, 0]), ((0, 0), []), ((2, 3, 4), [0, 1])],
    ids=str,
)  # fmt: skip
def test_cross_entropy_looks_at_shapes_before_it_looks_at_labels(shape, labels):
    labels = np.array(labels, np.int64)
    got = re.escape(f"got shapes {shape} and {labels.shape}")
    said = rf"^CrossEntropyLoss: wanted logits \(rows, classes\), of at least one class, and labels .* {got}"
    for loss in (nn.functional.cross_entropy, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")):
        with pytest.raises(ValueError, match=said):
            loss(Tensor(np.zeros(shape, np.float32)), labels)


def test_labels_that_are_no_integers_are_not_rounded():
    for loss in (nn.functional.cross_entropy, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")):
        with pytest.raises(TypeError, match="^CrossEntropyLoss: labels must be integers, got float32"):
            loss(Tensor(np.zeros((2, 4), np.float32)), np.array([0.9, 1.2], np.float32))
