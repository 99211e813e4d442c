"""`Files`: numbered `.npy` sets and their labels, and every way in which they can be wrong, told before training."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.data import BatchLoader, DataError, Files, Source, describe
from deeptrain.data.formats import raw


def write(directory, sizes, *, name="data", dtype=np.float32, row=(3,), labels=None):
    """Write sets whose values tell set and row; labels are 1000 * set + row."""
    directory = Path(directory)
    directory.mkdir(exist_ok=True, parents=True)
    made = {}
    for number, size in sizes.items():
        values = (1000 * number + np.arange(size)).astype(dtype)
        np.save(
            directory / f"{name}{number}.npy",
            np.broadcast_to(values.reshape(-1, *[1] * len(row)), (size, *row)),
        )
        made[number] = 1000 * number + np.arange(size)
    flat = np.concatenate([made[number] for number in sorted(made)])
    if labels == "flat":
        np.save(directory / "labels.npy", flat)
    elif labels == "nested":
        np.save(directory / "labels.npy", flat.reshape(len(sizes), -1))
    elif labels == "directory":
        (directory / "y").mkdir()
        for number, values in made.items():
            np.save(directory / "y" / f"label_{number:04}.npy", values)
    return directory


def all_sets(name):
    """Choose whatever there is; without a choice, numbers must have no gaps."""
    return name.isdigit()


def test_sets_are_in_the_order_of_their_numbers(tmp_path):
    files = Files(write(tmp_path / "d", {10: 2, 2: 3, 1: 4}, labels="flat"), sets=[1, 10, 2])
    assert isinstance(files, Source)
    assert (files.set_names, files.set_sizes, files.n_rows) == (("1", "2", "10"), (4, 3, 2), 9)
    inputs, targets = files.read(np.array([8, 0, 4, 7]))
    assert inputs[:, 0].tolist() == targets.tolist() == [10001, 1000, 2000, 10000]
    assert inputs.dtype == torch.float32
    assert files.describe()["inputs"] == "float32[3]"
    assert files.describe()["targets"] == "int64[]"


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.dictionaries(st.integers(1, 30), st.integers(1, 12), min_size=1, max_size=6),
    labels=st.sampled_from([None, "flat", "directory"]),
    batch_size=st.integers(1, 30),
    shuffle=st.sampled_from([None, "sets", "samples", "global"]),
    group=st.integers(1, 3),
    seed=st.integers(),
    data=st.data(),
)
def test_each_row_comes_once_with_its_label_and_its_name(
    sizes, labels, batch_size, *, shuffle, group, seed, data
):
    chosen = data.draw(st.none() | st.lists(st.sampled_from(sorted(sizes)), min_size=1))
    with tempfile.TemporaryDirectory() as place:
        directory = write(place, sizes, labels=labels)
        files = Files(directory, directory / "y" if labels == "directory" else None, sets=chosen or all_sets)
        loader = BatchLoader(files, batch_size=batch_size, shuffle=shuffle, group=group, seed=seed)
        found = []
        for batch in loader:
            values = batch.inputs[:, 0].to(torch.int64)
            assert batch.inputs.data_ptr() % 64 == 0
            assert (batch.targets is None) if labels is None else torch.equal(values, batch.targets)
            assert sorted(1000 * int(p.set_name) + r for p in batch.sources for r in p.rows) == sorted(
                values.tolist()
            )
            found += values.tolist()
        files.close()
    wanted = sizes if chosen is None else dict.fromkeys(chosen)
    assert sorted(found) == sorted(1000 * number + row for number in wanted for row in range(sizes[number]))


def test_nested_labels(tmp_path):
    files = Files(write(tmp_path / "d", {1: 4, 2: 4, 3: 4}, labels="nested"), sets=[3, 1])
    inputs, targets = files.read(np.array([5, 0, 4, 3]))
    assert targets.tolist() == inputs[:, 0].tolist() == [3001, 1000, 3000, 1003]


def test_labels_elsewhere_and_of_any_shape(tmp_path):
    write(tmp_path / "d", {1: 2, 2: 3})
    np.save(tmp_path / "l.npy", np.arange(10.0).reshape(5, 2))
    files = Files(tmp_path / "d", tmp_path / "l.npy", sets=["2"])
    assert files.read(np.array([2, 0]))[1].tolist() == [[8.0, 9.0], [4.0, 5.0]]


def test_labels_in_the_directory_are_no_set(tmp_path):
    directory = write(tmp_path / "d", {1: 2, 2: 3}, labels="flat")
    (directory / "labels.npy").rename(directory / "targets7.npy")
    assert Files(directory, directory / "targets7.npy").set_names == ("1", "2")


def test_batches_name_their_sets(tmp_path):
    loader = BatchLoader(Files(write(tmp_path / "d", {1: 128, 2: 128}, labels="nested")), batch_size=64)
    assert [describe(batch.sources) for batch in loader] == ["1[0:64]", "1[64:128]", "2[0:64]", "2[64:128]"]
    assert describe(BatchLoader(loader.source, batch_size=256).fetch().sources) == "1+2"


def test_kinds_of_storage(tmp_path):
    values = np.arange(24.0).reshape(4, 6)
    for number, array in enumerate((np.asfortranarray(values), values.astype(">f8"), values)):
        np.save(tmp_path / f"x{number}.npy", array)
    inputs, _ = Files(tmp_path).read(np.arange(12))
    assert torch.equal(inputs, torch.from_numpy(values).repeat(3, 1))
    with (tmp_path / "x3.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version=(2, 0))
    assert Files(tmp_path).n_rows == 16


def test_a_state_fits_moved_data_and_no_other(tmp_path):
    loader = BatchLoader(Files(write(tmp_path / "d", {1: 8, 2: 8}, labels="flat")), batch_size=3)
    loader.seek(epoch=1, batch=2)
    state = loader.state_dict()
    (tmp_path / "d").rename(tmp_path / "moved")
    moved = BatchLoader(Files(tmp_path / "moved"), batch_size=3)
    moved.load_state_dict(state)
    assert moved.position == (1, 2, 0)
    other = BatchLoader(Files(write(tmp_path / "e", {2: 8, 3: 8}, labels="flat")), batch_size=3)
    with pytest.raises(ValueError, match=r"another source: source\.set_names: recorded"):
        other.load_state_dict(state)


class Dangerous:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def damage_shape(directory):
    np.save(directory / "data3.npy", np.zeros((4, 5), np.float32))


def damage_dtype(directory):
    np.save(directory / "data3.npy", np.zeros((4, 3)))


def damage_pickle(directory):
    (directory / "data3.npy").write_bytes(pickle.dumps(Dangerous()))


def damage_objects(directory):
    np.save(directory / "data3.npy", np.array([Dangerous()], object), allow_pickle=True)


def damage_text(directory):
    np.save(directory / "data3.npy", np.array(["a", "b"]))


def damage_cut(directory):
    data = (directory / "data3.npy").read_bytes()
    (directory / "data3.npy").write_bytes(data[:-5])


def damage_head(directory):
    (directory / "data3.npy").write_bytes(b"\x93NUM")


def damage_empty_file(directory):
    (directory / "data3.npy").write_bytes(b"")


def damage_no_rows(directory):
    np.save(directory / "data3.npy", np.zeros((0, 3), np.float32))


def damage_scalar(directory):
    np.save(directory / "data3.npy", np.float32(3))


def damage_twice(directory):
    np.save(directory / "data03.npy", np.zeros((4, 3), np.float32))


def damage_name(directory):
    np.save(directory / "mean.npy", np.zeros((4, 3), np.float32))


def damage_prefix(directory):
    np.save(directory / "other9.npy", np.zeros((4, 3), np.float32))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            damage_shape,
            r"data3\.npy: found rows of float32\[5\]; expected rows of float32\[3\], as in data1\.npy\. Write",
        ),
        (damage_dtype, r"data3\.npy: found rows of float64\[3\]; expected rows of float32\[3\]"),
        (
            damage_pickle,
            r"data3\.npy: found no readable \.npy header.*pickled objects are not read.*numpy\.save",
        ),
        (damage_objects, r"data3\.npy: found pickled Python objects, which are not loaded"),
        (damage_text, r"data3\.npy: found dtype <U1; expected numbers.*astype"),
        (
            damage_cut,
            r"data3\.npy: found 171 bytes: the file is cut off; expected 176 bytes for \(4, 3\) of float32",
        ),
        (damage_head, r"data3\.npy: found no readable \.npy header"),
        (damage_empty_file, r"data3\.npy: found no readable \.npy header"),
        (damage_no_rows, r"data3\.npy: found an array of shape \(0, 3\), which holds no row"),
        (damage_scalar, r"data3\.npy: found an array of shape \(\), which holds no row"),
        (damage_twice, r"files that both have the number 3: data03\.npy, data3\.npy; expected.*Rename"),
        (
            damage_name,
            r"d: found several possible data sets: data\*\.npy \(3\), mean\.npy; expected .*Files\('.*/d/data\*\.npy'\)",
        ),
        (damage_prefix, r"d: found several possible data sets: data\*\.npy \(3\), other\*\.npy \(1\);"),
    ],
)
def test_bad_sets_are_named(tmp_path, damage, message):
    directory = write(tmp_path / "d", {1: 4, 2: 4, 3: 4})
    damage(directory)
    with pytest.raises(DataError, match=message):
        Files(directory)
    assert not Path("executed").exists()


def test_bad_places_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for place, found in (
        ("empty", "found no data sets"),
        ("file", "found a file of no known format"),
        ("none", "found nothing"),
    ):
        with pytest.raises(ValueError, match=rf"{place}: {found}; expected .*numbered \.npy files"):
            Files(tmp_path / place)
    directory = write(tmp_path / "d", {1: 4, 2: 4})
    with pytest.raises(DataError, match="found the sets 1, 2; expected the sets 7, 9 too"):
        Files(directory, sets=[1, 9, 7])
    with pytest.raises(DataError, match="at least one set"):
        Files(directory, sets=[])
    with pytest.raises(DataError, match=r"l\.npy: found nothing; expected a file, or a directory"):
        Files(directory, tmp_path / "l.npy")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (11,),
            r"labels of shape \(11,\) for 3 sets with 12 rows \(1: 4, 2: 5, 3: 3\); expected shape \(12, \.\.\.\)",
        ),
        ((3, 4), r"4 labels for each set, but set 2 \(5 rows\), 3 \(3 rows\)"),
        ((4, 3), r"labels of shape \(4, 3\) for 3 sets"),
    ],
)
def test_labels_that_do_not_match_are_named(tmp_path, shape, message):
    directory = write(tmp_path / "d", {1: 4, 2: 5, 3: 3})
    np.save(directory / "labels.npy", np.zeros(shape))
    with pytest.raises(DataError, match=rf"labels\.npy: found {message}"):
        Files(directory)


def test_label_files_that_do_not_match_are_named(tmp_path):
    directory = write(tmp_path / "d", {1: 4, 2: 5, 3: 3}, labels="directory")
    np.save(directory / "y" / "label_0002.npy", np.zeros(4))
    with pytest.raises(
        DataError, match=r"y: found other numbers of labels than rows in the sets 2 \(5 rows, 4 labels\)"
    ):
        Files(directory, directory / "y")
    (directory / "y" / "label_0002.npy").rename(directory / "y" / "label_0008.npy")
    with pytest.raises(
        DataError, match="found no labels for the sets 2, and labels for sets that are not there: 8;"
    ):
        Files(directory, directory / "y")


def test_a_file_cut_off_after_the_start_is_an_error_and_not_a_crash(tmp_path):
    directory = write(tmp_path / "d", {1: 4000, 2: 4000})
    loader = BatchLoader(Files(directory), batch_size=4000)
    loader.advance()
    whole = (directory / "data2.npy").read_bytes()
    (directory / "data2.npy").write_bytes(whole[:500])
    with pytest.raises(
        DataError, match=r"data2\.npy: found a file of 500 bytes: it was cut off after its header was read"
    ):
        loader.fetch()
    (directory / "data2.npy").write_bytes(whole)
    assert loader.fetch().inputs[0, 0] == 2000


def test_rows_out_of_range(tmp_path):
    files = Files(write(tmp_path / "d", {1: 4}))
    with pytest.raises(IndexError, match="there are the rows 0 to 3"):
        files.read(np.array([0, 4]))


def test_more_sets_than_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MOST_OPEN", 2)
    loader = BatchLoader(
        Files(write(tmp_path / "d", dict.fromkeys(range(1, 7), 3))), batch_size=7, shuffle="global"
    )
    assert sorted(int(v) for b in loader for v in b.inputs[:, 0]) == [
        1000 * n + r for n in range(1, 7) for r in range(3)
    ]
    assert len(raw._OPENED) == 2
