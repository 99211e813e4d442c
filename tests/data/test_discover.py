"""What is found at a path: which files are sets, where the labels are, and what is said where that is not plain."""

import os
import warnings

import numpy as np
import pytest
import torch

from deeptrain.data import Arrays, BatchLoader, DataError, Files
from deeptrain.data.families import families, rest_of, role_of
from deeptrain.data.files import shared_rows

h5py = pytest.importorskip("h5py")


def rows(number, size=4, width=3):
    return np.repeat((1000 * number + np.arange(size)).astype(np.float32)[:, None], width, axis=1)


def labels(number, size=4):
    return 1000 * number + np.arange(size)


def write_sets(directory, numbers=(1, 2, 3), name="data{}", size=4):
    directory.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        np.save(directory / f"{name.format(number)}.npy", rows(number, size))
    return directory


def check(files, numbers=(1, 2, 3), size=4):
    """Each row has its own label, and all are there."""
    assert files.set_names == tuple(map(str, numbers))
    inputs, targets = files.read(np.random.default_rng(0).permutation(files.n_rows))
    assert inputs[:, 0].tolist() == targets.reshape(len(targets), -1)[:, 0].tolist()
    assert sorted(inputs[:, 0].tolist()) == [1000 * n + r for n in numbers for r in range(size)]
    files.close()


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def label_h5(path, numbers=(1, 2, 3), size=4):
    return write_h5(path, {str(number): labels(number, size) for number in numbers})


def label_csv(path, numbers=(1, 2, 3), size=4):
    columns = [labels(number, size) for number in numbers]
    lines = [",".join(map(str, numbers)), *(",".join(map(str, row)) for row in zip(*columns, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


# ---------------------------------------------------------------------- names


def test_numbers_are_the_last_digits_and_sort_as_numbers():
    found = families((name, ".npy", name) for name in ("128batch__10", "128batch__9", "x_2_end", "labels"))
    assert [(str(family), list(family.members)) for family in found] == [
        ("128batch__*.npy (2)", [9, 10]),
        ("x_*_end.npy (1)", [2]),
        ("labels.npy", [None]),
    ]


def test_what_names_say():
    assert [role_of(name) for name in ("x_train", "images1", "data")] == ["inputs"] * 3
    assert [role_of(name) for name in ("y_test", "Labels", "targets7", "classes")] == ["labels"] * 4
    assert [role_of(name) for name in ("class_labels", "class-label1", "classlabels")] == ["class_labels"] * 3
    assert role_of("train10") is None
    assert rest_of("x_train") == rest_of("train-labels") == {"train"}


# ---------------------------------------------------------------------- where labels are


def beside_npy(directory):
    np.save(directory / "labels.npy", np.concatenate([labels(number) for number in (1, 2, 3)]))


def beside_npy_nested(directory):
    np.save(directory / "targets.npy", np.stack([labels(number) for number in (1, 2, 3)]))


def beside_h5(directory):
    label_h5(directory / "labels.h5", (0, 1, 2, 3, 4, 9))


def beside_csv_columns(directory):
    label_csv(directory / "labels.csv")


def beside_csv_two_columns_too_many(directory):
    label_csv(directory / "labels.csv", (1, 2, 3, 7, 8))


def beside_csv_rows(directory):
    flat = np.concatenate([labels(number) for number in (1, 2, 3)])
    (directory / "y.csv").write_text("label\n" + "\n".join(map(str, flat)))


def beside_csv_rows_without_a_name(directory):
    flat = np.concatenate([labels(number) for number in (1, 2, 3)])
    (directory / "y.csv").write_text("\n".join(map(str, flat)))


def beside_parquet(directory):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({f"set{n}": labels(n) for n in (1, 2, 3)}), directory / "labels.parquet")


def beside_numbered(directory):
    for number in (1, 2, 3):
        np.save(directory / f"labels{number}.npy", labels(number))


def in_a_directory(directory):
    (directory / "labels").mkdir()
    for number in (1, 2, 3):
        np.save(directory / "labels" / f"l_{number:03}.npy", labels(number))


def in_a_directory_as_one(directory):
    (directory / "y").mkdir()
    label_h5(directory / "y" / "all.h5")


@pytest.mark.parametrize(
    "put",
    [value for name, value in sorted(globals().items()) if name.startswith(("beside_", "in_a_"))],
    ids=lambda f: f.__name__,
)
def test_labels_are_found(tmp_path, put):
    if "csv" in put.__name__:
        pytest.importorskip("pyarrow")
    put(write_sets(tmp_path / "d"))
    check(Files(tmp_path / "d"))
    assert Files(tmp_path / "d", sets=[3, 2]).read(np.array([4, 0]))[1].flatten().tolist() == [3000, 2000]
    assert Files(tmp_path / "d", False).read(np.arange(2))[1] is None


def test_labels_beside_the_directory_of_inputs(tmp_path):
    write_sets(tmp_path / "train" / "images")
    label_h5(tmp_path / "train" / "labels.h5")
    check(Files(tmp_path / "train" / "images"))
    check(Files(tmp_path / "train"))


def test_labels_of_a_directory_beside(tmp_path):
    write_sets(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    for number in (1, 2, 3):
        np.save(tmp_path / "labels" / f"{number}.npy", labels(number))
    check(Files(tmp_path))


def test_names_pair_inputs_with_labels(tmp_path):
    for part, number in (("train", 1), ("test", 2)):
        np.save(tmp_path / f"x_{part}.npy", rows(number))
        np.save(tmp_path / f"y_{part}.npy", labels(number))
    assert Files(tmp_path / "x_test.npy").read(np.arange(4))[1].tolist() == labels(2).tolist()
    (tmp_path / "y_test.npy").unlink()
    with pytest.raises(
        DataError, match=r"found y_train\.npy, which may or may not be its labels.*labels=False"
    ):
        Files(tmp_path / "x_test.npy")
    with pytest.raises(
        DataError, match=r"several possible data sets: x_test\.npy, x_train\.npy; .*Files\('.*x_test\.npy'\)"
    ):
        Files(tmp_path)


def test_two_possible_labels(tmp_path):
    write_sets(tmp_path / "d")
    beside_npy(tmp_path / "d")
    beside_h5(tmp_path / "d")
    with pytest.raises(
        DataError, match=r"found labels\.h5, labels\.npy, each of which may be its labels.*labels="
    ):
        Files(tmp_path / "d")
    check(Files(tmp_path / "d", tmp_path / "d" / "labels.h5"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "names", [("x", "y"), ("inputs", "targets"), ("data", "labels"), ("features", "labels")]
)
def test_arrays_in_one_archive(tmp_path, save, names):
    save(tmp_path / "all.npz", **{names[0]: rows(0), names[1]: labels(0)})
    check(Files(tmp_path / "all.npz"), (0,))
    for number in (1, 2, 3):
        save(tmp_path / f"set{number}.npz", **{names[0]: rows(number), names[1]: labels(number)})
    check(Files(tmp_path / "set*.npz"))


def test_archives_of_numbered_arrays(tmp_path):
    np.savez(
        tmp_path / "d.npz",
        **{f"x{n}": rows(n) for n in (10, 9, 11)},
        **{f"y{n}": labels(n) for n in (9, 10, 11)},
    )
    check(Files(tmp_path / "d.npz"), (9, 10, 11))


def test_groups_in_one_hdf5_file(tmp_path):
    write_h5(
        tmp_path / "d.h5",
        {f"train/x/{n}": rows(n) for n in (1, 2, 3)}
        | {f"train/y/{n}": labels(n) for n in (1, 2, 3)}
        | {"val/x": rows(7)},
    )
    check(Files(tmp_path / "d.h5/train"))
    assert Files(tmp_path / "d.h5/val").set_sizes == (4,)
    with pytest.raises(
        DataError, match=r"several possible data sets: train/x/\* \(3\), val/x;.*Files\('.*d\.h5/train/x/"
    ):
        Files(tmp_path / "d.h5")
    with pytest.raises(DataError, match=r"d\.h5: found no arrays named test"):
        Files(tmp_path / "d.h5/test")


def test_zarr_groups(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "d.zarr"), mode="w")
    for number in (1, 2, 3):
        group.create_array(f"x/{number}", data=rows(number))
        group.create_array(f"y/{number}", data=labels(number))
    check(Files(tmp_path / "d.zarr"))
    check(Files(tmp_path))
    check(Files(tmp_path / "d.zarr/x", tmp_path / "d.zarr/y"))


# ---------------------------------------------------------------------- the layouts of DeepTrain 0.x


def test_old_layout_of_images(tmp_path):
    one_hot = {str(n): np.eye(10)[np.arange(4) % 10] for n in range(1, 12)}
    write_sets(tmp_path / "train", (1, 2, 10), "128batch__{}")
    write_h5(tmp_path / "train" / "labels.h5", one_hot)
    files = Files(tmp_path / "train", sets=[1, 2, 10])
    assert files.describe()["targets"] == "float64[10]"
    assert files.set_names == ("1", "2", "10")
    assert torch.equal(files.read(np.arange(4))[1], torch.from_numpy(one_hot["1"]))


def test_old_layout_of_series(tmp_path):
    pytest.importorskip("pyarrow")
    write_h5(tmp_path / "data.h5", {str(n): rows(n) for n in range(8)})
    label_csv(tmp_path / "labels.csv", range(8))
    check(Files(tmp_path), range(8))
    check(Files(tmp_path / "data.h5"), range(8))
    (tmp_path / "split").mkdir()
    for number in range(8):
        write_h5(tmp_path / "split" / f"batch32_{number}.h5", {"data": rows(number)})
    label_h5(tmp_path / "split" / "labels.h5", range(12))
    check(Files(tmp_path / "split"), range(8))


def test_old_layout_of_lz4(tmp_path):
    lz4 = pytest.importorskip("lz4.frame")
    for number in (1, 2):
        (tmp_path / f"128batch__{number}.npy").write_bytes(lz4.compress(rows(number).tobytes()))
    label_h5(tmp_path / "labels.h5", (1, 2, 3))
    check(Files(tmp_path, shape=(4, 3), dtype="float32"), (1, 2))


# ---------------------------------------------------------------------- one file


def test_one_file_of_sets_or_of_rows(tmp_path):
    array = np.stack([rows(number) for number in range(3)])
    np.save(tmp_path / "data.npy", array)
    assert Files(tmp_path / "data.npy").set_sizes == (3,)
    assert Files(tmp_path / "data.npy").describe()["inputs"] == "float32[4, 3]"
    files = Files(tmp_path / "data.npy", layout="sets")
    assert (files.set_names, files.set_sizes) == (("0", "1", "2"), (4, 4, 4))
    assert files.describe()["inputs"] == "float32[3]"
    for shape in ((3, 4), (12,), (3, 4, 1)):
        np.save(tmp_path / "labels.npy", np.stack([labels(number) for number in range(3)]).reshape(shape))
        check(Files(tmp_path), range(3))
    np.save(tmp_path / "labels.npy", np.arange(3))
    assert Files(tmp_path).set_sizes == (3,)
    with pytest.raises(ValueError, match="layout='files', expected one of None, 'sets', 'rows'"):
        Files(tmp_path, layout="files")
    np.save(tmp_path / "flat.npy", np.arange(4))
    with pytest.raises(
        DataError, match=r"found an array of shape \(4,\); expected \(sets, rows in a set, \.\.\.\)"
    ):
        Files(tmp_path / "flat.npy", layout="sets", labels=False)


def test_labels_by_number_tell_of_sets(tmp_path):
    np.save(tmp_path / "data.npy", np.stack([rows(number) for number in (1, 2, 3)]))
    label_h5(tmp_path / "labels.h5")
    check(Files(tmp_path))


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".npy.zst", ".zarr", ".b2nd"])
def test_one_file_of_any_format(tmp_path, suffix):
    from tests.support.stored import KINDS

    save = next(save for end, save in KINDS.values() if end == suffix)
    save(tmp_path / f"data{suffix}", np.stack([rows(number) for number in range(3)]))
    np.save(tmp_path / "labels.npy", np.stack([labels(number) for number in range(3)]))
    check(Files(tmp_path), range(3))
    check(Files(tmp_path / f"data{suffix}", sets=[1]), (1,))
    files = Files(tmp_path / f"data{suffix}", labels=False, rows_per_set=2)
    assert files.set_sizes == (2, 1)
    assert files.read(np.array([2]))[0][0, :, 0].tolist() == labels(2).tolist()


def test_a_long_file_in_sets(tmp_path):
    np.save(tmp_path / "x.npy", np.concatenate([rows(0, 10)]))
    np.save(tmp_path / "y.npy", labels(0, 10))
    files = Files(tmp_path, rows_per_set=4)
    assert (files.set_names, files.set_sizes) == (("0", "1", "2"), (4, 4, 2))
    check(Files(tmp_path), (0,), 10)
    assert files.read(np.array([9, 3]))[1].tolist() == [9, 3]
    write_sets(tmp_path / "d")
    with pytest.raises(ValueError, match="expected them only for one array that holds all rows"):
        Files(tmp_path / "d", rows_per_set=2)


@pytest.mark.parametrize("rows_per_set", [0, -1, True])
def test_a_set_has_rows(tmp_path, rows_per_set):
    np.save(tmp_path / "x.npy", rows(0))
    with pytest.raises(ValueError, match="rows_per_set: found"):
        Files(tmp_path, rows_per_set=rows_per_set)


def test_nested_column_by_column(tmp_path):
    np.save(tmp_path / "data.npy", np.asfortranarray(np.stack([rows(number) for number in range(3)])))
    np.save(tmp_path / "labels.npy", np.asfortranarray(np.stack([labels(number) for number in range(3)])))
    check(Files(tmp_path), range(3))


# ---------------------------------------------------------------------- several inputs, targets, classes


def test_several_inputs(tmp_path):
    for name, width in (("a", 2), ("b", 5)):
        for number in (1, 2):
            (tmp_path / name).mkdir(exist_ok=True)
            np.save(tmp_path / name / f"{number}.npy", rows(number, width=width))
    label_h5(tmp_path / "labels.h5")
    named = Files({"first": tmp_path / "a", "second": tmp_path / "b"}, tmp_path / "labels.h5")
    inputs, targets = named.read(np.array([7, 0]))
    assert {name: tensor.shape for name, tensor in inputs.items()} == {"first": (2, 2), "second": (2, 5)}
    assert (
        inputs["first"][:, 0].tolist() == inputs["second"][:, 0].tolist() == targets.tolist() == [2003, 1000]
    )
    assert named.describe()["inputs.second"] == "float32[5]"
    assert isinstance(Files([tmp_path / "a", tmp_path / "b"]).read(np.arange(3))[0], tuple)
    np.save(tmp_path / "b" / "3.npy", rows(3, width=5))
    with pytest.raises(DataError, match="found no set 3 among some of the inputs"):
        Files([tmp_path / "a", tmp_path / "b"])
    np.save(tmp_path / "a" / "3.npy", rows(3, 5, width=2))
    with pytest.raises(DataError, match=r"b/3\.npy: found 4 rows; expected 5, as in 3\.npy"):
        Files([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ValueError, match="found no path"):
        Files([])


def test_targets_that_are_the_inputs(tmp_path):
    write_sets(tmp_path / "d")
    label_h5(tmp_path / "d" / "class_labels.h5")
    files = Files(tmp_path / "d", "inputs")
    inputs, targets, classes = files.read(np.array([5, 0]))
    assert targets is inputs
    assert classes.tolist() == inputs[:, 0].tolist() == [2001, 1000]
    assert files.describe()["targets"] == "inputs"
    assert len(Files(tmp_path / "d", "inputs", class_labels=False).read(np.arange(2))) == 2
    batch = BatchLoader(files, batch_size=4).fetch()
    assert batch.class_labels.tolist() == labels(1).tolist()


def test_dtypes_are_cast(tmp_path):
    write_sets(tmp_path / "d")
    beside_npy(tmp_path / "d")
    files = Files(tmp_path / "d", dtype="float64", label_dtype=np.int32)
    inputs, targets = files.read(np.array([3, 1]))
    assert (inputs.dtype, targets.dtype) == (torch.float64, torch.int32)
    assert files.describe()["inputs"] == "float64[3]"
    assert inputs[:, 0].tolist() == targets.tolist() == [1003, 1001]
    assert Files(tmp_path / "d", dtype=torch.float16).read(np.arange(2))[0].dtype == torch.float16
    with pytest.raises(ValueError, match="found label_dtype=object, expected numbers or booleans"):
        Files(tmp_path / "d", label_dtype=object)


# ---------------------------------------------------------------------- which sets


def test_sets_by_name_or_predicate(tmp_path):
    write_sets(tmp_path / "d", range(1, 11), "train{}")
    assert Files(tmp_path / "d").set_names == tuple(map(str, range(1, 11)))
    assert Files(tmp_path / "d", sets=lambda name: int(name) % 2 == 0).set_names == ("2", "4", "6", "8", "10")
    assert Files(tmp_path / "d", sets=["10", 2]).set_names == ("2", "10")
    with pytest.raises(DataError, match="found 'train1' in sets; expected numbers"):
        Files(tmp_path / "d", sets=["train1"])
    with pytest.raises(DataError, match="at least one set to be asked for"):
        Files(tmp_path / "d", sets=lambda name: False)


def test_gaps_in_the_numbers(tmp_path):
    write_sets(tmp_path / "d", (1, 2, 5, 7))
    with pytest.raises(DataError, match=r"found the sets 1, 2, 5, 7, without 3, 4, 6; .*sets=\[1, 2, 5, 7\]"):
        Files(tmp_path / "d")
    assert Files(tmp_path / "d", sets=[1, 2, 5, 7]).set_sizes == (4, 4, 4, 4)
    with pytest.warns(UserWarning, match="3 of 7 sets are left out"):
        files = Files(tmp_path / "d", on_bad_set="skip")
    assert list(files.skipped) == ["3", "4", "6"]


def test_directories_to_choose_from(tmp_path):
    write_sets(tmp_path / "train")
    write_sets(tmp_path / "val")
    with pytest.raises(
        DataError, match=r"several possible data sets: train, val; expected one\. .*Files\('.*train'\)"
    ):
        Files(tmp_path)
    write_sets(tmp_path, (1,), "train{}")
    write_sets(tmp_path, (1, 2), "val{}")
    with pytest.raises(
        DataError,
        match=r"several possible data sets: train\*\.npy \(1\), val\*\.npy \(2\); .*Files\('.*train\*\.npy'\)",
    ):
        Files(tmp_path)
    assert Files(tmp_path / "val*.npy").set_sizes == (4, 4)
    with pytest.raises(DataError, match=r"test\*: found no data sets"):
        Files(tmp_path / "test*")


def test_notes_beside_the_sets_are_no_sets(tmp_path):
    write_sets(tmp_path / "d")
    (tmp_path / "d" / "README.md").write_text("x")
    (tmp_path / "d" / "about.csv").write_text("a,b\n1,2\n")
    (tmp_path / "d" / ".hidden1.npy").write_bytes(b"")
    (tmp_path / "d" / "empty").mkdir()
    assert Files(tmp_path / "d").set_names == ("1", "2", "3")


# ---------------------------------------------------------------------- bad sets


def spoil_cut(directory):
    path = directory / "data2.npy"
    path.write_bytes(path.read_bytes()[:-3])


def spoil_garbled(directory):
    (directory / "data2.npy").write_bytes(b"nothing")


def spoil_shape(directory):
    np.save(directory / "data2.npy", rows(2, 4, 7))


def spoil_first_shape(directory):
    spoil_shape(directory)
    (directory / "data2.npy").rename(directory / "other")
    (directory / "data1.npy").rename(directory / "data2.npy")
    (directory / "other").rename(directory / "data1.npy")


@pytest.mark.parametrize("spoil", [spoil_cut, spoil_garbled, spoil_shape])
@pytest.mark.parametrize("put", [beside_npy, beside_npy_nested, beside_h5, beside_numbered, None])
def test_bad_sets_are_passed_over(tmp_path, spoil, put):
    directory = write_sets(tmp_path / "d")
    if put is not None:
        put(directory)
    spoil(directory)
    with pytest.raises(DataError, match=r"data2\.npy: found "):
        Files(directory)
    with pytest.warns(UserWarning, match=r"d: 1 of 3 sets are left out \(2: found .*; expected .*\)"):
        files = Files(directory, on_bad_set="skip")
    assert list(files.skipped) == ["2"]
    assert str(tmp_path) not in files.skipped["2"]
    assert files.describe()["skipped"] == files.skipped
    if put is not None:
        check(files, (1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Files(directory, sets=[1, 3]).skipped == {}


def test_the_kind_of_most_sets_is_right(tmp_path):
    spoil_first_shape(write_sets(tmp_path / "d"))
    with pytest.raises(
        DataError, match=r"data1\.npy: found rows of float32\[7\]; expected rows of float32\[3\], as in data2"
    ):
        Files(tmp_path / "d")


def test_sets_without_labels(tmp_path):
    directory = write_sets(tmp_path / "d")
    label_h5(directory / "labels.h5", (1, 3, 4))
    with pytest.raises(
        DataError, match=r"labels\.h5: found no labels for the sets 2, .*not there: 4; .*sets="
    ):
        Files(directory)
    with pytest.warns(UserWarning, match="1 of 3 sets"):
        check(Files(directory, on_bad_set="skip"), (1, 3))
    check(Files(directory, sets=[1, 3]), (1, 3))


def test_nothing_left_is_an_error(tmp_path):
    directory = write_sets(tmp_path / "d", (1,))
    (directory / "data1.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"data1\.npy"):
        Files(directory, on_bad_set="skip")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    directory = write_sets(tmp_path / "d")
    array = rows(2)
    array[3, 1] = value
    np.save(directory / "data2.npy", array)
    files = Files(directory, check_finite=True)
    files.read(np.arange(4))
    with pytest.raises(
        DataError, match=r"data2\.npy: found NaN or infinity in the inputs, set 2, row 3; .*sets="
    ):
        files.read(np.array([11, 7, 0]))
    Files(directory).read(np.arange(12))


def test_the_same_number_twice(tmp_path):
    np.savez(tmp_path / "d.npz", x1=rows(1), x01=rows(1), x2=rows(2))
    with pytest.raises(DataError, match=r"d\.npz: found files that both have the number 1: x01, x1"):
        Files(tmp_path / "d.npz")


def test_several_arrays_in_one_of_several_files(tmp_path):
    np.savez(tmp_path / "d1.npz", x=rows(1))
    np.savez(tmp_path / "d2.npz", x1=rows(1), x2=rows(2))
    with pytest.raises(
        DataError, match=r"d2\.npz: found the arrays 1, 2; expected one set in each of several files"
    ):
        Files(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    write_sets(tmp_path / "d", (1, 2))
    os.mkfifo(tmp_path / "d" / "data3.npy")
    with pytest.raises(DataError, match=r"data3\.npy: found a pipe or a device; expected a file"):
        Files(tmp_path / "d")
    os.unlink(tmp_path / "d" / "data3.npy")
    os.symlink(tmp_path / "gone", tmp_path / "d" / "data3.npy")
    with pytest.raises(DataError, match=r"data3\.npy: found no readable \.npy header \(No such file"):
        Files(tmp_path / "d")


# ---------------------------------------------------------------------- rows in common


def test_rows_in_common(tmp_path):
    directory = write_sets(tmp_path / "d", range(1, 6))
    assert shared_rows(Files(directory, sets=[1, 2]), Files(directory, sets=[3, 4])) == 0
    assert shared_rows(Files(directory, sets=[1, 2, 3]), Files(directory, sets=[3, 4, 2])) == 8
    os.symlink(directory, tmp_path / "link")
    assert shared_rows(Files(tmp_path / "link"), Files(directory / "data3.npy")) == 4
    np.save(tmp_path / "one.npy", np.stack([rows(n) for n in range(4)]))
    one = Files(tmp_path / "one.npy", layout="sets", sets=[0, 1])
    assert shared_rows(one, Files(tmp_path / "one.npy", layout="sets", sets=[2, 3])) == 0
    assert shared_rows(one, Files(tmp_path / "one.npy", layout="sets", sets=[1, 2])) == 4
    assert shared_rows(one, Files(tmp_path / "one.npy", layout="rows")) == 8
    assert shared_rows(one, Arrays(torch.zeros(3, 3))) == 0
    np.savez_compressed(tmp_path / "all.npz", x1=rows(1), x2=rows(2))
    packed = tmp_path / "all.npz"
    assert shared_rows(Files(packed, sets=[1]), Files(packed, sets=[2])) == 0
    assert shared_rows(Files(packed, sets=[1]), Files(packed)) == 4
