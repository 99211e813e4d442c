"""One checkpoint on disk: a directory that is either whole or not there.

    000012/
        tensors.safetensors    every tensor and array, named by its path in the state
        state.json             everything else, see `codec`
        manifest.json          sizes and checksums of the two, and what the caller says of the checkpoint

The files are written into a temporary sibling directory and fsynced, the manifest last; then the directory is
renamed, its parent fsynced, and everything read back, from the device itself where the system allows that (see
`files.drop_cache`). Every bit of every file is under a checksum: state.json as a whole, the tensors file's header
and each tensor, and the manifest by its first line.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.files import (
    CheckpointError,
    drop_cache,
    make_directory,
    require_space,
    sync_directory,
    temporary_beside,
    write_bytes,
)
from deeptrain.checkpoint.manifest import MANIFEST, STATE, TENSORS, Manifest
from deeptrain.checkpoint.reading import CorruptCheckpoint, Reader
from deeptrain.checkpoint.staging import Content
from deeptrain.checkpoint.tensors import write_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from deeptrain.checkpoint.staging import Staged

__all__ = [
    "CheckpointError",
    "CorruptCheckpoint",
    "read_checkpoint",
    "read_info",
    "verify",
    "write_checkpoint",
    "write_staged",
]


def write_checkpoint(
    path: str | PathLike[str], tree: Any, info: dict[str, Any], *, sequence: int = 0
) -> None:
    """Write a checkpoint, and return once it is on the disk and was read back whole.

    Args:
        path: The directory to make. The directories above it are made where they are missing.
        tree: The state tree.
        info: What the checkpoint is to say of itself: a tree without tensors and arrays.
        sequence: Its place among the commits of a store.

    Raises:
        CodecError: The tree holds something that a checkpoint cannot; the message names its path.
        CheckpointError: It could not be written; the message names the path. Nothing is left behind.
    """
    path = Path(path)
    _write(path, Content.of(tree, info, f"{path}: "), sequence)


def write_staged(path: str | PathLike[str], staged: Staged, *, sequence: int = 0) -> None:
    """Write a checkpoint of a staged state, as `write_checkpoint` does of a live one; in any thread.

    Args:
        path: The directory to make.
        staged: The state; the next one can be staged once this has returned.
        sequence: Its place among the commits of a store.

    Raises:
        CheckpointError: It could not be written; the message names the path. Nothing is left behind.
        RuntimeError: A later state was staged over this one.

    Example:
        >>> from tempfile import mkdtemp
        >>> from deeptrain.checkpoint.staging import Staging
        >>> place = Path(mkdtemp(), "000000")
        >>> write_staged(place, Staging().stage({"lr": 0.1}, {"iterations": 3}))
        >>> read_checkpoint(place)
        ({'lr': 0.1}, {'iterations': 3})
    """
    with staged.content() as content:
        _write(Path(path), content, sequence)


def _write(path: Path, content: Content, sequence: int) -> None:
    with _one_step(path, content.size) as temporary:
        written = write_tensors(temporary / TENSORS, content.tensors)
        write_bytes(temporary / STATE, content.state)
        sync_directory(temporary)
        manifest = Manifest.of(written, content.state, content.info, sequence)
        write_bytes(temporary / MANIFEST, manifest.text())
        sync_directory(temporary)


@contextmanager
def _one_step(path: Path, size: int) -> Iterator[Path]:
    """A temporary directory to fill, that becomes `path` in one step and is verified; or nothing is left."""
    temporary = made = temporary_beside(path)
    whole = False
    try:
        if path.exists() or path.is_symlink():
            raise CheckpointError(
                f"{path}: is there already: a checkpoint is written once, give another path"
            )
        make_directory(path.parent)
        require_space(path.parent, size)
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
        made = path
        sync_directory(path.parent)
        for name in (TENSORS, STATE, MANIFEST):
            drop_cache(path / name)
        verify(path)
        whole = True
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint could not be written: {error}") from error
    finally:
        if not whole:
            shutil.rmtree(made, ignore_errors=True)


def verify(path: str | PathLike[str]) -> None:
    """See that a checkpoint is whole, bit for bit.

    Raises:
        CorruptCheckpoint: It is not; the message names the file, or the path of the tensor.
    """
    Reader(Path(path)).check()


def read_info(path: str | PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of itself, without reading its tensors.

    Raises:
        CorruptCheckpoint: Its manifest is not whole.
    """
    return Reader(Path(path)).info()


def read_checkpoint(path: str | PathLike[str], verify: bool = True) -> tuple[Any, dict[str, Any]]:
    """Read a checkpoint. Its tensors come on the CPU, in memory of their own at 64-byte alignment.

    Args:
        path: The checkpoint's directory.
        verify: Whether to compare the tensors with their checksums; everything else always is.

    Returns:
        The state tree, and the info that was written with it.

    Raises:
        CorruptCheckpoint: It is not whole; the message names the file, or the path of the tensor.
    """
    reader = Reader(Path(path))
    return reader.tree(verify=verify), reader.info()
