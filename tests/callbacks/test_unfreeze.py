"""`Unfreeze`: frozen parameters stay as they are, to the bit, until their point."""

import pytest
import torch
from torch import nn

import deeptrain as dt


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"layer1": nn.Linear(2, 2), "layer2": nn.Linear(2, 2)})
        self.head = nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.encoder["layer2"](self.encoder["layer1"](x)))


def make(points, held=lambda model: model.parameters(), runs=None):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(held(model), 0.1, weight_decay=0.5)
    step = dt.SupervisedStep(model, loss=nn.MSELoss(), optimizer=optimizer, device="cpu")
    train = dt.BatchLoader(dt.Arrays(torch.rand(16, 2), torch.rand(16, 1)), batch_size=4)
    more = {"runs": runs, "name": runs and "r"}
    return dt.Trainer(step, train, epochs=3, callbacks=[dt.Unfreeze(points)], verbosity=0, **more)


def moved(t, before):
    after = t.learner.model.state_dict()
    return sorted(name for name in after if not torch.equal(after[name], before[name]))


def copied(t):
    return {name: value.clone() for name, value in t.learner.model.state_dict().items()}


def test_each_is_trained_from_its_point_on():
    t = make({"encoder.layer2": dt.At(batch=2), "encoder.*.bias": dt.At(epoch=1), "encoder": dt.At(epoch=2)})
    head = ["head.bias", "head.weight"]
    layer2 = ["encoder.layer2.bias", "encoder.layer2.weight"]
    for until, expected in [
        (dt.At(batch=2), head),
        (dt.At(epoch=1), layer2 + head),
        (dt.At(epoch=2), ["encoder.layer1.bias", *layer2, *head]),
        (dt.At(epoch=3), sorted(t.learner.model.state_dict())),
    ]:
        before = copied(t)
        t.fit(until=until)
        assert moved(t, before) == expected


def test_a_point_at_the_beginning_freezes_nothing():
    t = make({"encoder": dt.At(epoch=0)})
    t.step(1)
    assert t.get("model_extra.frozen") == []


def test_a_run_that_goes_on_has_them_frozen(tmp_path):
    for expected in (4, 0):
        t = make({"encoder": dt.At(epoch=1)}, runs=tmp_path)
        t.step(3)
        assert len(t.get("model_extra.frozen")) == expected
        t.close()


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (
            {"encodr.layer1": dt.At(epoch=1)},
            r"matches none of the model's parameters; near it there are encoder\.layer1",
        ),
        ({"zzzz": dt.At(epoch=1)}, r"it has encoder\.layer1\.weight"),
    ],
)
def test_a_pattern_of_nothing_is_refused_before_anything_is_trained(points, says):
    t = make(points)
    with pytest.raises(ValueError, match=says):
        t.fit()
    assert t.progress.train.iterations == 0


def test_what_the_optimizer_does_not_have_is_refused():
    t = make({"encoder": dt.At(epoch=1)}, held=lambda model: model.head.parameters())
    with pytest.raises(ValueError, match=r"encoder\.layer1\.weight, which the optimizer does not have"):
        t.fit()


@pytest.mark.parametrize("points", [{}, None, {"encoder": 3}, {"encoder": dt.Every(epochs=1)}])
def test_wrong_settings_are_refused(points):
    with pytest.raises(TypeError, match="Unfreeze"):
        dt.Unfreeze(points)
