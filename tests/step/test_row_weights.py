"""Weights of rows in a loss."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from deeptrain.step.weights import weighted_loss

torch_losses = [
    (nn.CrossEntropyLoss(), torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])),
    (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0])), torch.randn(6, 4), torch.arange(6) % 4),
    (nn.CrossEntropyLoss(ignore_index=1), torch.randn(6, 4, 5), torch.arange(30).reshape(6, 5) % 4),
    (nn.CrossEntropyLoss(), torch.randn(6, 4), torch.eye(4)[torch.arange(6) % 4]),
    (nn.MSELoss(), torch.randn(6, 3), torch.randn(6, 3)),
    (nn.MSELoss(reduction="sum"), torch.randn(6, 3), torch.randn(6, 3)),
    (nn.BCEWithLogitsLoss(), torch.randn(6), torch.ones(6)),
    (functional.cross_entropy, torch.randn(6, 4), torch.arange(6) % 4),
    (functional.cross_entropy, torch.randn(6, 4), torch.tensor([0, 1, -100, 3, -100, 1])),
    (partial(functional.cross_entropy, ignore_index=2), torch.randn(6, 4), torch.arange(6) % 4),
    (
        partial(functional.cross_entropy, weight=torch.tensor([1.0, 2.0, 3.0, 4.0])),
        torch.randn(6, 4),
        torch.arange(6) % 4,
    ),
    (partial(functional.cross_entropy, reduction="sum"), torch.randn(6, 4), torch.arange(6) % 4),
    (
        nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 3.0, 4.0])),
        torch.randn(6, 4),
        torch.arange(6) % 4,
    ),
    (partial(functional.kl_div, reduction="batchmean"), torch.randn(6, 4).log_softmax(1), torch.rand(6, 4)),
    (nn.KLDivLoss(reduction="batchmean"), torch.randn(6, 4).log_softmax(1), torch.rand(6, 4)),
    (nn.NLLLoss(), torch.randn(6, 4).log_softmax(1), torch.arange(6) % 4),
    (nn.HuberLoss(), torch.randn(6, 3), torch.randn(6, 3)),
]


@pytest.mark.parametrize(("loss", "predictions", "targets"), torch_losses)
def test_weights_of_one_change_nothing(loss, predictions, targets):
    found = weighted_loss(loss, predictions, targets, torch.ones(6))
    assert torch.allclose(found, loss(predictions, targets))


@pytest.mark.parametrize(("loss", "predictions", "targets"), torch_losses)
def test_a_row_of_weight_zero_has_no_gradient_and_one_of_two_twice_as_much(loss, predictions, targets):
    once, twice = predictions.clone().requires_grad_(), predictions.clone().requires_grad_()
    loss(once, targets).backward()
    weighted_loss(loss, twice, targets, torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, 1.0])).backward()
    assert not twice.grad[0].any()
    assert torch.allclose(twice.grad[1], 2 * once.grad[1], rtol=1e-4)
    assert torch.allclose(twice.grad[2:], once.grad[2:], rtol=1e-4)


def test_a_loss_that_takes_weights_is_given_them():
    def loss(predictions, targets, sample_weight):
        return ((predictions - targets) ** 2 * sample_weight).sum()

    found = weighted_loss(loss, torch.ones(3), torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]))
    assert found == 6


class Focal(nn.Module):
    """A loss that knows `reduction` and puts its rows together in a way of its own."""

    reduction = "mean"

    def forward(self, predictions, targets):
        each = functional.cross_entropy(predictions, targets, reduction="none")
        return each if self.reduction == "none" else each.sum() / 3


def test_a_loss_that_reduces_in_a_way_of_its_own_is_refused():
    with pytest.raises(TypeError, match=r"the loss Focal gives .* it reduces in a way of its own"):
        weighted_loss(Focal(), torch.randn(6, 4), torch.arange(6) % 4, torch.ones(6))


def test_a_loss_that_cannot_be_weighted_is_refused_by_name():
    def my_loss(predictions, targets):
        return (predictions - targets).abs().mean()

    with pytest.raises(TypeError, match="my_loss has no way to take them"):
        weighted_loss(my_loss, torch.ones(3), torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="one row for each of the 4 weights"):
        weighted_loss(nn.MSELoss(), torch.ones(3), torch.zeros(3), torch.ones(4))
