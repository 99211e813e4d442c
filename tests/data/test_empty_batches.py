"""Batches without any window are passed over: at every place of an epoch, by any loop, and in validation."""

import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.data import BatchLoader
from deeptrain.data.series import Series
from deeptrain.data.windows import Windows


def uneven(lengths, **options):
    """A loader of one series a batch, of which those below 5 steps have no window; each series has its length as target."""
    made = [torch.full((n, 1), float(n)) for n in lengths]
    source = Series(made, targets=torch.tensor(lengths, dtype=torch.float32))
    return BatchLoader(source, batch_size=1, preprocess=Windows(5, short="drop"), **options)


EMPTY = {
    "first": [2, 12, 7],
    "last": [12, 7, 2],
    "in between": [12, 3, 7],
    "several": [1, 2, 12, 3, 4, 7, 2, 1],
    "all but one": [1, 2, 6, 2],
}


@pytest.mark.parametrize("lengths", EMPTY.values(), ids=EMPTY)
def test_a_batch_without_a_window_is_passed_over(lengths):
    loader = uneven(lengths)
    for epoch in range(2):
        found = [(int(batch.targets), batch.iteration, batch.epoch) for batch in loader]
        assert found == [(n, k, epoch) for n in lengths for k in range(n // 5)]
        assert loader.position == (epoch + 1, 0, 0)


@pytest.mark.parametrize("lengths", EMPTY.values(), ids=EMPTY)
def test_it_is_passed_over_by_a_loader_that_goes_on_anywhere(lengths):
    whole = [(int(batch.targets), batch.iteration) for batch in uneven(lengths)]
    for stop in range(len(whole)):
        loader = uneven(lengths)
        begun = [next(iter(loader)) for _ in range(stop)]
        again = uneven(lengths)
        again.load_state_dict(loader.state_dict())
        found = [(int(batch.targets), batch.iteration) for batch in (*begun, *again)]
        assert found == whole, stop


def test_it_is_passed_over_whatever_is_done_to_the_batch_before():
    loader = uneven([2, 12, 3, 7])
    piece = loader.fetch()
    assert torch.equal(loader.fetch().inputs.values, piece.inputs.values)
    piece.inputs.values.zero_()  # changed in place: it is read again
    assert int(loader.fetch().inputs.values[0, 0]) == 12
    assert not loader.ends_batch(None)
    loader.advance(whole=False)
    assert loader.ends_batch(None)
    assert int(loader.fetch().targets) == 12  # as after an abort, with the next one looked at already
    loader.advance()
    assert (loader.passed, loader.position) == (3, (0, 3, 0))


def test_an_epoch_of_which_nothing_is_left_is_an_error_that_says_so():
    with pytest.raises(
        ValueError, match=r"Windows makes no piece of any batch from batch 0 of epoch 0 to the epoch's end"
    ):
        uneven([2, 3]).fetch()
    loader = uneven([12, 7, 2])
    loader.seek(epoch=0, batch=2)
    with pytest.raises(ValueError, match="from batch 2 of epoch 0"):
        loader.fetch()


def judged(train, val, epochs=2, every=None):
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    step = dt.SupervisedStep(
        Last(model),
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD(model.parameters(), 1e-4),
        scheduler=lambda o, totals: torch.optim.lr_scheduler.LinearLR(o, total_iters=totals.batches),
        scheduler_by="batches",
    )
    validation = None if val is None else dt.Validation(val, every=every)
    return dt.Trainer(step, train, validation=validation, epochs=epochs, runs=None, verbosity=0)


class Last(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.values[:, -1])[:, 0]


@pytest.mark.parametrize("lengths", EMPTY.values(), ids=EMPTY)
def test_a_trainer_counts_it_and_makes_no_iteration_of_it(lengths):
    trainer = judged(uneven(lengths), None)
    trainer.fit()
    done = trainer.progress.train
    assert (done.epochs, done.batches) == (2, 2 * len(lengths))
    assert done.iterations == 2 * sum(n // 5 for n in lengths)
    assert trainer.get("optimizer.param_groups.0.lr") == pytest.approx(1e-4)  # the schedule came to its end


@pytest.mark.parametrize("every", [2, 3, 4])
def test_an_occasion_that_falls_on_it_is_not_missed(every):
    trainer = judged(uneven([1, 2, 12, 3, 4, 7, 2]), uneven([6]), every=dt.Every(batches=every))
    trainer.fit()
    # After batches 5 and 7 of each epoch: as often as a multiple was reached or passed.
    counts, before = [5, 7, 12, 14], 0
    passes = 0
    for count in counts:
        passes += count // every > before // every
        before = count
    assert trainer.progress.validation.passes == passes


def test_what_is_scheduled_for_it_is_not_missed():
    trainer, called = judged(uneven([1, 2, 12, 3, 4, 7, 2]), None), []
    for batch in (1, 4, 5, 6, 13):
        trainer.at(
            dt.At(batch=batch), lambda t, batch=batch: called.append((batch, t.progress.train.batches))
        )
    trainer.fit()
    assert called == [(1, 5), (4, 5), (5, 5), (6, 7), (13, 14)]


def test_it_is_passed_over_in_validation():
    trainer = judged(uneven([6, 7]), uneven([2, 8, 3, 12, 1]), epochs=1)
    trainer.fit()
    kept = judged(uneven([6, 7]), uneven([8, 12]), epochs=1)
    kept.fit()
    assert trainer.history["val.loss"].values.tolist() == kept.history["val.loss"].values.tolist()
    with pytest.raises(ValueError, match="the validation's 2 batches have no piece that could be judged"):
        judged(uneven([6, 7]), uneven([2, 3]), epochs=1).fit()
