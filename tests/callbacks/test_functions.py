"""Plain functions by event and cadence: called when they should be, with what they take, each once."""

import functools

import pytest

import deeptrain as dt
from tests.support import recipes


def counted(into, name="counted"):
    def fn(trainer):
        into.append(trainer.progress.train.iterations)

    fn.__name__ = name
    return fn


def fit(*callbacks, until=None, **more):
    t = recipes.trainer(callbacks=[*callbacks], **more)
    t.fit(until=until)
    return t


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("train:begin", [0]),
        ("train:iter", list(range(1, 17))),
        ("train:epoch", [8, 16]),
        ("val:batch", [7, 7, 7, 14, 14, 14]),
        ("val:end", [7, 14]),
        (("train:batch", dt.Every(batches=5)), [5, 10, 15]),
        (("train:iter", dt.Every(epochs=1)), [8, 16]),
        (("val:end", dt.Every(epochs=1)), [14]),
        (("train:iter", dt.At(batch=3)), [3]),
        (("val:end", dt.At(iteration=9)), [14]),
        (("val:end", dt.Every(batches=5)), [7, 14]),
        (("val:end", dt.Every(batches=15)), []),
    ],
)
def test_called_at_its_event_and_cadence(key, expected):
    seen = []
    fit({key: counted(seen)})
    assert seen == expected


def test_several_at_one_event_are_called_in_order_and_each_is_a_callback_of_its_name():
    seen = []

    def one(trainer):
        seen.append("one")

    def two(trainer, event):
        seen.append(event.name)

    t = fit({"train:epoch": [one, two], "train:begin": one}, recipes.Chain(), until=dt.At(epoch=1))
    assert list(t.handlers.by_name) == ["one", "two", "one-2", "Chain"]
    assert seen == ["one", "one", "train_epoch_end"]


def with_default(trainer, k=3):
    assert k == 3


def with_event(trainer, event=None):
    assert event is not None


def with_any(*given):
    assert len(given) == 2


class Object:
    def __call__(self, trainer):
        assert isinstance(trainer, dt.Trainer)


def keyword(trainer, *, must):
    pass


@pytest.mark.parametrize(
    "fn", [with_default, with_event, with_any, Object(), functools.partial(lambda a, t: None, 1)]
)
def test_takes_the_trainer_or_the_event_too(fn):
    fit({"train:epoch": fn}, until=dt.At(epoch=1))


@pytest.mark.parametrize("fn", [lambda: None, lambda a, b, c: None, keyword, lambda *, trainer: None])
def test_a_function_of_other_parameters_is_refused(fn):
    with pytest.raises(TypeError, match=r"expected \(trainer\) or \(trainer, event\)"):
        fit({"train:epoch": fn})


@pytest.mark.parametrize(
    ("table", "error", "says"),
    [
        ({"train:bacth": print}, ValueError, "near it there are 'train:batch'"),
        ({"on_val_end": print}, ValueError, "near it there are 'val:end'"),
        ({"zzzzzz": print}, ValueError, "events are train:begin, train:iter"),
        ({("train:iter", 5): print}, TypeError, "expected a cadence beside the event"),
        ({("train:iter", dt.Every(seconds=5)): print}, ValueError, "let the clock decide"),
        ({("save", dt.Every(epochs=5)): print}, ValueError, "so that it has no cadence"),
        ({("train:begin", dt.Every(epochs=5)): print}, ValueError, "so that it has no cadence"),
        ({("train:iter", dt.At(epoch=0)): print}, ValueError, "write 'train:begin'"),
        ({"train:iter": [3]}, TypeError, "found 3 in a dict of callbacks"),
    ],
)
def test_what_is_no_event_or_cadence_is_refused(table, error, says):
    with pytest.raises(error, match=says):
        fit(table)


def test_one_that_is_no_list_is_refused():
    with pytest.raises(TypeError, match=r"callbacks is one dict, expected a list"):
        recipes.trainer(callbacks={"train:iter": print})
    with pytest.raises(TypeError, match=r"callbacks is one Chain, expected a list"):
        recipes.trainer(callbacks=recipes.Chain())


def test_each_is_called_once_where_the_next_one_fails():
    seen, fails = [], [True]

    def failing(trainer):
        if fails:
            fails.pop()
            raise RuntimeError("planted")
        seen.append("failing")

    t = recipes.trainer(callbacks=[{"train:epoch": [counted(seen), failing]}])
    with pytest.raises(RuntimeError, match="planted"):
        t.fit()
    assert seen == [8]
    t.fit(until=dt.At(epoch=1))
    assert seen == [8, "failing"]


def test_the_beginning_comes_once_in_a_run_and_not_in_each_process(tmp_path):
    seen = []
    for _ in range(3):
        t = recipes.trainer(callbacks=[{"train:begin": counted(seen)}], runs=tmp_path, name="r")
        t.step(2)
        t.close()
    assert seen == [0]


def test_the_beginning_is_told_again_where_its_handler_failed_and_before_the_first_iteration():
    seen, fails = [], [True]

    def failing(trainer):
        seen.append(trainer.progress.train.iterations)
        if fails:
            fails.pop()
            raise RuntimeError("planted")

    t = recipes.trainer(callbacks=[{"train:begin": failing}])
    with pytest.raises(RuntimeError, match="planted"):
        t.fit()
    t.fit(until=dt.At(iteration=0))
    assert (seen, t.progress.train.iterations, t.info().pending) == ([0, 0], 0, ())


def test_what_a_step_asks_for_stays_where_callbacks_are_replaced():
    t = recipes.trainer(callbacks=[], learning={"on_nonfinite": "rewind"})
    assert list(t.handlers.by_name) == ["Recover"]
    t.replace(callbacks=[{"train:iter": print}])
    assert list(t.handlers.by_name) == ["print", "Recover"]


def test_a_callback_is_told_only_of_what_it_hears():
    class Deaf(recipes.Chain):
        def hears(self, event):
            return event == "val_end"

    deaf = Deaf()
    fit(deaf)
    assert deaf.events == 2


def test_one_that_joins_on_the_way_is_called_at_the_occasions_from_there_on():
    late, behind = [], []
    t = fit(until=dt.At(iteration=9))
    table = {("train:iter", dt.Every(iterations=4)): counted(late, "late")}
    t.replace(callbacks=[table, {("val:end", dt.At(batch=3)): counted(behind, "behind")}])
    t.fit()
    assert (late, behind) == ([12, 16], [])
