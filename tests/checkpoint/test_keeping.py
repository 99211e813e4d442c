"""What is kept: the rules one by one, together, against a plain restatement of them, and through a store."""

import itertools
import json
import math
import random
from pathlib import Path

import pytest
import torch

from deeptrain.checkpoint import pointers
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.keeping import Facts, Keeping, best_of, choose, look
from deeptrain.checkpoint.settings import Checkpoints
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.state.cadence import Every

NAN, INF = math.nan, math.inf


def facts(keys=(), mode="max", size=10, tags=(), unreadable=(), **counts):
    return [
        Facts(
            Path(f"{n:06d}"),
            size,
            readable=n not in unreadable,
            tag="x" if n in tags else None,
            key=key,
            mode=mode,
            counts={unit: values[n] for unit, values in counts.items()},
        )
        for n, key in enumerate(keys)
    ]


def kept(present, **rules):
    gone = {old.path for old in choose(present, Keeping(**rules)).go}
    return [int(f.path.name) for f in present if f.path not in gone]


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"keep": 0}, r"keep=0\): expected a whole number from 1 up"),
        ({"keep": True}, "keep=True"),
        ({"keep": 2.0}, "keep=2.0"),
        ({"best": -1}, r"best=-1\): expected a whole number from 0 up"),
        ({"best": None}, "best=None"),
        ({"each": 0}, r"each=0\): expected None, an Every"),
        ({"each": "10"}, "each='10'"),
        ({"most_bytes": 0}, "most_bytes=0"),
        ({"most_bytes": NAN}, "most_bytes=nan"),
        ({"most_bytes": True}, "most_bytes=True"),
        ({"most_bytes": "20 GB"}, "most_bytes='20 GB'"),
        ({"when_busy": "queue"}, 'when_busy=\'queue\'\\): expected "wait" or "skip"'),
        ({"on_replay_mismatch": "ignore"}, 'expected "warn" or "stop"'),
        ({"every": 60}, "every=60"),
    ],
)
def test_settings_are_checked_when_they_are_made(wrong, match):
    with pytest.raises((ValueError, TypeError), match=match):
        Checkpoints(**wrong)


def test_settings_are_plain_values():
    made = Checkpoints(best=1, each=Every(epochs=10), most_bytes=20e9, when_busy="skip")
    assert made.keeping == Keeping(keep=2, best=1, each=Every(epochs=10), most_bytes=20e9)
    assert repr(made) == (
        "Checkpoints(every=Every(seconds=60), keep=2, best=1, each=Every(epochs=10), most_bytes=20000000000.0, "
        "when_busy='skip')"
    )
    assert repr(Checkpoints()) == "Checkpoints(every=Every(seconds=60), keep=2)"


# ---------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("keys", "mode", "count", "best"),
    [
        ([0.1, 0.9, 0.5], "max", 1, [1]),
        ([0.1, 0.9, 0.5], "min", 1, [0]),
        ([0.1, 0.9, 0.5], "max", 2, [1, 2]),
        ([0.1, 0.9, 0.5], "max", 9, [1, 2, 0]),
        ([0.9, 0.9, 0.9], "max", 2, [0, 1]),  # ties: the earliest
        ([0.9, 0.9, 0.9], "min", 1, [0]),
        ([0.0, -0.0], "min", 1, [0]),
        ([NAN, 0.2, NAN], "max", 3, [1]),  # NaN is never best
        ([NAN, 0.2, NAN], "min", 3, [1]),
        ([NAN, NAN], "max", 1, []),
        ([INF, 3.0, -INF], "min", 3, [2, 1, 0]),
        ([None, 0.0, None], "max", 2, [1]),  # 0 is a value
        ([None], "max", 1, []),
        ([], "max", 1, []),
        ([3, 10, 9], "max", 1, [1]),
    ],
)
def test_the_best(keys, mode, count, best):
    assert [found.sequence for found in best_of(facts(keys, mode), count)] == best


def test_only_those_that_agree_with_the_newest_on_what_is_better_are_compared():
    present = facts([9.0, 8.0], "max") + [
        f._replace(path=Path(f"00001{f.sequence}")) for f in facts([0.5, 0.1], "min")
    ]
    assert [found.sequence for found in best_of(present, 9)] == [11, 10]


def test_newest_best_and_tagged():
    keys = [0.1, 0.9, 0.3, NAN, 0.2, 0.1]
    assert kept(facts(keys), keep=1) == [5]
    assert kept(facts(keys), keep=2) == [4, 5]
    assert kept(facts(keys), keep=9) == [0, 1, 2, 3, 4, 5]
    assert kept(facts(keys), keep=1, best=1) == [1, 5]
    assert kept(facts(keys), keep=1, best=2) == [1, 2, 5]
    assert kept(facts(keys, tags={0, 3}), keep=1, best=1) == [0, 1, 3, 5]


def test_one_that_cannot_be_read_stays_and_does_not_count():
    assert kept(facts([None] * 5, unreadable={1, 4}), keep=2) == [1, 2, 3, 4]


def test_each_keeps_the_first_of_a_stretch():
    assert kept(facts([None] * 8), keep=1, each=3) == [0, 3, 6, 7]
    epochs = [0, 1, 1, 2, 3, 5, 5, 6]
    assert kept(facts([None] * 8, epochs=epochs), keep=1, each=Every(epochs=2)) == [0, 3, 5, 7]
    clock = [100.0, 3599.5, 3600.0, 9000.0, 9001.0, NAN, 9002.0, 9003.0]
    assert kept(facts([None] * 8, seconds=clock), keep=1, each=Every(seconds=3600)) == [0, 2, 3, 7]
    assert kept(facts([None] * 3), keep=1, each=Every(epochs=2)) == [2]


def test_what_each_keeps_does_not_change_as_others_go():
    """Pruned after every commit, the same stay as if all were looked at once."""
    for length, keep in itertools.product(range(1, 6), range(1, 4)):
        everything = facts([None] * 30)
        present = []
        for new in everything:
            present.append(new)
            gone = choose(present, Keeping(keep=keep, each=length)).go
            present = [f for f in present if f not in gone]
        assert [f.sequence for f in present] == kept(everything, keep=keep, each=length)


def test_the_bound_takes_the_oldest_that_are_not_firm():
    keys = [0.1, 0.9, 0.3, 0.2, 0.2, 0.1]
    rules = {"keep": 3, "best": 1, "each": 2}
    assert kept(facts(keys), **rules) == [0, 1, 2, 3, 4, 5]
    assert kept(facts(keys), **rules, most_bytes=60) == [0, 1, 2, 3, 4, 5]
    assert kept(facts(keys), **rules, most_bytes=59) == [1, 2, 3, 4, 5]
    assert kept(facts(keys), **rules, most_bytes=35) == [1, 4, 5]
    assert kept(facts(keys), **rules, most_bytes=1) == [1, 5]
    assert kept(facts(keys, tags={3}), **rules, most_bytes=1) == [1, 3, 5]
    assert choose(facts(keys), Keeping(**rules, most_bytes=15))[1:] == (20, 5)
    assert choose(facts(keys), Keeping(**rules, most_bytes=20))[1:] == (20, 0)


def test_whatever_the_rules_the_promises_hold():
    chance = random.Random(0)
    for _ in range(2000):
        count = chance.randint(1, 9)
        numbers = range(count)
        present = facts(
            [chance.choice([None, NAN, 0.0, 0.5, 1.0]) for _ in numbers],
            chance.choice(["max", "min"]),
            tags={n for n in numbers if chance.random() < 0.2},
            unreadable={n for n in numbers if chance.random() < 0.1},
        )
        rules = Keeping(
            keep=chance.randint(1, 4),
            best=chance.randint(0, 3),
            each=chance.choice([None, 1, 3]),
            most_bytes=chance.choice([None, 5, 25, 60]),
        )
        choice = choose(present, rules)
        stay = [f for f in present if f not in choice.go]
        firm = [
            f
            for f in present
            if f is present[-1] or f.tag or not f.readable or f in best_of(present, rules.best)
        ]
        assert all(f in stay for f in firm)
        assert choice.size == 10 * len(stay)
        assert choice.over == max(0, choice.size - (rules.most_bytes or INF))
        assert not choice.over or stay == firm  # all that may go went
        if rules.most_bytes is None:
            readable = [f for f in present if f.readable]
            assert all(f in stay for f in readable[-rules.keep :])


# ---------------------------------------------------------------------- through a store


def tree(n):
    return {"n": n, "w": torch.full((50,), float(n))}


def open_store(tmp_path, **rules):
    return CheckpointStore(tmp_path / "checkpoints", keep=Keeping(**rules))


def fill(store, keys, mode="max", tags=None):
    for n, key in enumerate(keys):
        store.commit(tree(n), {"n": n, "key": key, "mode": mode}, tag=(tags or {}).get(n))


def names(store):
    return [int(path.name) for path in store.paths()]


def pointer(store, name):
    path = store.directory / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_a_store_keeps_by_the_rules_and_points(tmp_path):
    store = open_store(tmp_path, keep=1, best=1)
    fill(store, [0.1, 0.9, NAN, 0.3], tags={2: "before surgery"})
    assert names(store) == [1, 2, 3]
    assert store.newest().info == {"n": 3, "key": 0.3, "mode": "max"}
    assert look(store.paths()[1]).tag == "before surgery"
    assert pointer(store, "last") == {"checkpoint": "000003", "mode": "max", "key": 0.3}
    assert pointer(store, "best") == {"checkpoint": "000001", "mode": "max", "key": 0.9}
    again = open_store(tmp_path, keep=1, best=1)  # another process: it knows no more than the disk does
    again.commit(tree(4), {"n": 4, "key": 0.95, "mode": "max"})
    assert names(again) == [2, 4]
    assert pointer(again, "best")["checkpoint"] == pointer(again, "last")["checkpoint"] == "000004"


def test_the_size_is_that_of_the_files(tmp_path):
    store = open_store(tmp_path, keep=9)
    path = store.commit(tree(0), {"iterations": 7, "time": 1.5e9})
    found = look(path)
    assert found.size == sum(file.stat().st_size for file in path.iterdir()) > 200
    assert found.counts == {"iterations": 7, "seconds": 1.5e9}
    assert (found.key, found.mode, found.tag, found.readable) == (None, None, None, True)


def test_the_bound_on_bytes_says_once_that_it_cannot_be_held(tmp_path):
    store = open_store(tmp_path, keep=5)
    fill(store, [None] * 2)
    one = look(store.paths()[0]).size
    store.keeping = Keeping(keep=5, most_bytes=2.5 * one)
    fill(store, [None] * 3)
    assert len(names(store)) == 2
    store.keeping = Keeping(keep=5, most_bytes=1)
    with pytest.warns(UserWarning, match=r"most_bytes=.*remove some by hand"):
        store.commit(tree(9), {})
    assert names(store) == [5]
    store.commit(tree(9), {})  # a second warning would be an error here
    assert names(store) == [6]


def test_pointers_are_hints(tmp_path):
    """Wrong, torn, hostile or unwritable ones change neither what loads nor what is kept."""
    store = open_store(tmp_path, keep=1, best=1)
    fill(store, [0.9, 0.1])
    for text in ('{"checkpoint": "../../etc"}', "{", "[" * 100_000, "\xff"):
        for name in ("last", "best"):
            (store.directory / f"{name}.json").write_text(text, encoding="latin-1")
        assert store.newest().info["n"] == 1
        assert names(store) == [0, 1]
        store.finish(store.paths()[-1])
        assert pointer(store, "last")["checkpoint"] == "000001"
        assert pointer(store, "best")["checkpoint"] == "000000"


def test_a_pointer_that_cannot_be_written_is_said_and_costs_no_checkpoint(tmp_path, monkeypatch):
    store = open_store(tmp_path, keep=1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pointers, "write_json", fail)
    with pytest.warns(UserWarning, match=r"last\.json: could not be written.*No space left"):
        store.commit(tree(0), {"n": 0})
    assert store.newest().info["n"] == 0


def test_values_that_json_has_not_are_written_in_words_and_best_goes_with_its_rule(tmp_path):
    store = open_store(tmp_path, keep=1, best=1)
    fill(store, [INF, NAN])
    assert pointer(store, "best")["key"] == "inf"
    assert pointer(store, "last")["key"] == "nan"
    open_store(tmp_path, keep=1).commit(tree(2), {})
    assert pointer(store, "best") is None


@pytest.mark.parametrize("tag", ["", "a\nb", "x" * 101, 5])
def test_a_tag_is_a_name(tmp_path, tag):
    store = open_store(tmp_path)
    with pytest.raises(CheckpointError, match="tag="):
        store.commit(tree(0), {}, tag=tag)
    assert store.paths() == []


@pytest.mark.parametrize(
    ("info", "match"),
    [
        ({"key": "0.9", "mode": "max", "epochs": 1}, "key='0.9'"),
        ({"key": True, "mode": "max", "epochs": 1}, "key=True"),
        ({"key": 0.9, "epochs": 1}, "mode=None"),
        ({"key": 0.9, "mode": "most", "epochs": 1}, "mode='most'"),
        ({"iterations": 4}, "each=.*no number 'epochs'"),
    ],
)
def test_an_info_that_the_rules_cannot_follow_is_refused_before_writing(tmp_path, info, match):
    store = open_store(tmp_path, each=Every(epochs=2))
    with pytest.raises(CheckpointError, match=match):
        store.commit(tree(0), info)
    assert store.paths() == []


def test_the_three_steps_of_a_commit_and_their_order(tmp_path):
    store = open_store(tmp_path, keep=1)
    fill(store, [None] * 2)
    place = store.prepare()
    assert place == (store.directory / "000002", 2)
    with pytest.raises(CheckpointError, match="write it before it is counted"):
        store.finish(place.path)
    assert names(store) == [1]  # nothing was removed for a checkpoint that is not there
    assert store.about({"n": 1}, tag="t") == {"n": 1, "tag": "t"}


def test_a_manifest_that_cannot_be_read_is_no_reason_to_remove(tmp_path):
    store = open_store(tmp_path, keep=1)
    fill(store, [None], tags={0: "before surgery"})
    path = store.paths()[0] / "manifest.json"
    text = path.read_bytes()
    path.write_bytes(text.replace(b"surgery", b"surgerx"))
    other = open_store(tmp_path, keep=1)
    fill(other, [None] * 3)
    assert names(other) == [0, 3]
    path.write_bytes(text)  # it could be read again
    fill(other, [None])
    assert names(other) == [0, 4]


def test_one_removed_by_hand_and_written_again_is_looked_at_again(tmp_path):
    import shutil

    store = open_store(tmp_path, keep=1)
    fill(store, [None], tags={0: "t"})
    shutil.rmtree(store.paths()[0])
    fill(store, [None] * 2)
    assert names(store) == [1]
