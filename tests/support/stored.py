"""Arrays stored in each format, one function for each way of storing them."""

import io

import numpy as np
import pytest

RNG = np.random.default_rng(0)
DTYPES = ["float32", "float64", "int16", "uint8", "bool", "int64", "float16"]


def values(rows=37, row=(4, 3), dtype="float32"):
    return (RNG.standard_normal((rows, *row)) * 50).astype(dtype)


def save_npy(path, array):
    np.save(path, array)


def save_fortran(path, array):
    np.save(path, np.asfortranarray(array))


def save_big_endian(path, array):
    np.save(path, array.astype(array.dtype.newbyteorder(">")))


def save_npz(path, array):
    np.savez(path, x=array)


def save_npz_compressed(path, array):
    np.savez_compressed(path, x=array)


def save_h5(path, array, **settings):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=array, **settings)


def save_h5_big_endian(path, array):
    save_h5(path, array.astype(array.dtype.newbyteorder(">")))


def save_h5_chunked(path, array):
    save_h5(path, array, chunks=(5, *array.shape[1:]))


def save_h5_gzip(path, array):
    save_h5(path, array, chunks=(6, *array.shape[1:]), compression="gzip", shuffle=True)


def packed(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def save_lz4(path, array):
    path.write_bytes(pytest.importorskip("lz4.frame").compress(packed(array)))


def save_lz4_frames(path, array):
    lz4 = pytest.importorskip("lz4.frame")
    data = packed(array)
    path.write_bytes(lz4.compress(data[:100]) + lz4.compress(data[100:], content_checksum=True))


def save_zstd(path, array):
    path.write_bytes(pytest.importorskip("zstandard").compress(packed(array)))


def save_zstd_fortran(path, array):
    path.write_bytes(pytest.importorskip("zstandard").compress(packed(np.asfortranarray(array))))


def save_b2nd(path, array):
    pytest.importorskip("blosc2").asarray(array, urlpath=str(path), mode="w", chunks=(5, *array.shape[1:]))


def save_tensor(path, array):
    pytest.importorskip("blosc2").save_tensor(array, str(path), mode="w")


def save_frame(path, array):
    pytest.importorskip("blosc2").SChunk(
        chunksize=256, data=packed(array), urlpath=str(path), mode="w", contiguous=True
    )


def save_zarr(path, array, **settings):
    zarr = pytest.importorskip("zarr")
    made = zarr.create_array(
        str(path), shape=array.shape, dtype=array.dtype, chunks=(5, *array.shape[1:]), **settings
    )
    made[...] = array


def save_zarr_2(path, array):
    save_zarr(path, array, zarr_format=2)


def save_zarr_sharded(path, array):
    save_zarr(path, array, shards=(10, *array.shape[1:]))


KINDS = {
    "npy": (".npy", save_npy),
    "npy column by column": (".npy", save_fortran),
    "npy big-endian": (".npy", save_big_endian),
    "npz": (".npz", save_npz),
    "npz deflated": (".npz", save_npz_compressed),
    "hdf5": (".h5", save_h5),
    "hdf5 big-endian": (".h5", save_h5_big_endian),
    "hdf5 in chunks": (".hdf5", save_h5_chunked),
    "hdf5 deflated": (".h5", save_h5_gzip),
    "lz4": (".npy.lz4", save_lz4),
    "lz4 under the name npy": (".npy", save_lz4),
    "lz4 in two frames": (".lz4", save_lz4_frames),
    "zstd": (".npy.zst", save_zstd),
    "zstd column by column": (".zst", save_zstd_fortran),
    "blosc2 array": (".b2nd", save_b2nd),
    "blosc2 tensor": (".bl2", save_tensor),
    "blosc2 frame": (".b2frame", save_frame),
    "zarr 3": (".zarr", save_zarr),
    "zarr 2": (".zarr", save_zarr_2),
    "zarr in shards": (".zarr", save_zarr_sharded),
}
