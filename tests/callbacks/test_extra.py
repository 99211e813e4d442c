"""Values that a callback has saved beside the state: in the tree, in no digest, handed back on load."""

import pytest
import torch

import deeptrain as dt
from deeptrain.checkpoint.partial import select
from tests.support import recipes


class Keeper(dt.Callback):
    """Saves what it is given to keep."""

    def __init__(self, value=None):
        self.value, self.loaded = value, []

    def on_save(self, trainer, event):
        assert event.extra == {}
        if self.value is not None:
            event.extra["value"] = self.value

    def on_load(self, trainer, event):
        self.loaded.append(event.extra.get("value"))
        event.extra["value"] = "changed"  # its own copy


def made(value=None, **more):
    keeper = Keeper(value)
    return recipes.trainer(callbacks=[keeper], **more), keeper


def test_it_is_saved_and_handed_back():
    t, _ = made({"clock": 3.5, "names": ("a", "b"), "tensor": torch.arange(3)})
    t.step(2)
    t.save("here")
    assert t.get("volatile.callbacks.Keeper.value.clock") == 3.5
    other, keeper = made()
    other.load("here")
    (found,) = keeper.loaded
    assert found["names"] == ("a", "b")
    assert torch.equal(found["tensor"], torch.arange(3))
    assert other.get("volatile.callbacks.Keeper.value.clock") == 3.5


def test_the_newest_save_counts():
    t, keeper = made(1)
    t.save("one")
    keeper.value = None
    t.save("two")
    t.load("one")
    t.load("two")
    assert keeper.loaded == [1, None]


def test_it_counts_in_no_digest_and_a_run_goes_on_with_it(tmp_path):
    t, _ = made("first", runs=tmp_path, name="r")
    t.step(3)
    t.close()
    before = dt.digest(t.state_dict())
    again, keeper = made("second", runs=tmp_path, name="r")
    assert keeper.loaded == ["first"]
    assert dt.digest(again.state_dict()) == before
    again.save("here")
    assert dt.digest(again.state_dict()) == before
    again.close()


def test_of_a_part_of_a_state_it_is_a_part():
    t, _ = made("kept")
    t.save("here")
    other, keeper = made()
    other.load("here", only=["model"])
    other.load("here", skip=["volatile"])
    report = other.load("here", skip=["optimizer"])
    assert keeper.loaded == [None, None, "kept"]
    assert "volatile.callbacks.Keeper.value" in report.loaded


def test_what_no_state_may_hold_is_refused_by_its_path_and_nothing_is_saved(tmp_path):
    t, _ = made(object())
    with pytest.raises(dt.CodecError, match=r"volatile\.callbacks\.Keeper\.value"):
        t.save("here")
    assert not (tmp_path / "here").exists()
    assert t.get("volatile.callbacks.Keeper") == {}


def test_a_state_of_before_has_none():
    t, keeper = made("kept")
    t.save("here")
    state = select(t.state_dict(), (), ["volatile"])
    assert "volatile" not in state
    t.load_state_dict(state)
    assert keeper.loaded == [None]


def test_functions_of_one_dict_share_it():
    seen = []

    def keep(trainer, event):
        event.extra["value"] = 7

    def back(trainer, event):
        seen.append(event.extra)

    t = recipes.trainer(callbacks=[{"save": keep, "load": back}])
    assert list(t.handlers.by_name) == ["keep+back"]
    t.save("here")
    t.load("here")
    assert seen == [{"value": 7}]


def test_who_asks_for_nothing_has_no_part_of_the_tree():
    assert "volatile" not in recipes.trainer().state_dict()
