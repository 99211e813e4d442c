"""One checkpoint on disk: a directory that is either whole or not there.

    000012/
        tensors.safetensors    every tensor and array, named by its path in the state
        state.json             everything else, see `codec`
        manifest.json          sizes and checksums of the two, and what the caller says of the checkpoint

The files are written into a temporary sibling directory and fsynced, the manifest last; then the directory is
renamed, its parent fsynced, and everything read back, from the device itself where the system allows that (see
`files.drop_cache`). Every bit of every file is under a checksum: state.json as a whole, the tensors file's header
and each tensor, and the manifest by its first line.

A checkpoint of a run holds the state without the history's series. Its manifest says where these lie in the run's
segments (see `chain` and `segments`), which are on the disk before it is, and reading it puts them into the state.
"""

from __future__ import annotations

import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from deeptrain.checkpoint.past import as_state, placeholders, read_past
from deeptrain.checkpoint.reading import CorruptCheckpoint, Reader
from deeptrain.checkpoint.staging import Content
from deeptrain.checkpoint.tensors import write_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from deeptrain.checkpoint.chain import Chain
    from deeptrain.checkpoint.staging import Staged

__all__ = [
    "CheckpointError",
    "CorruptCheckpoint",
    "Whole",
    "read_checkpoint",
    "read_info",
    "read_whole",
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


def write_staged(
    path: str | PathLike[str], staged: Staged, *, sequence: int = 0, chain: Chain | None = None
) -> None:
    """Write a checkpoint of a staged state, as `write_checkpoint` does of a live one; in any thread.

    Args:
        path: The directory to make.
        staged: The state; the next one can be staged once this has returned.
        sequence: Its place among the commits of a store.
        chain: Where the history's series lie on the disk, which are then not in the state.

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
        _write(Path(path), content, sequence, chain)


def _write(path: Path, content: Content, sequence: int, chain: Chain | None = None) -> None:
    with _one_step(path, content.size) as temporary:
        written = write_tensors(temporary / TENSORS, content.tensors)
        write_bytes(temporary / STATE, content.state)
        sync_directory(temporary)
        manifest = Manifest.of(written, content.state, content.info, sequence, chain)
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
    """See that a checkpoint's own files are whole, bit for bit; not the segments of the history.

    Raises:
        CorruptCheckpoint: They are not; the message names the file, or the path of the tensor.
    """
    Reader(Path(path)).check()


def read_info(path: str | PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of itself, without reading its tensors.

    Raises:
        CorruptCheckpoint: Its manifest is not whole.
    """
    return Reader(Path(path)).info()


class Whole(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        tree: The state.
        info: What the checkpoint says of itself.
        chain: What of its history is whole in the run's segments; None where it has the history in itself.
    """

    tree: Any
    info: dict[str, Any]
    chain: Chain | None


def read_whole(path: str | PathLike[str], *, verify: bool = True, history: bool = True) -> Whole:
    """Read a checkpoint, and the history that belongs to it from the segments of its run.

    A segment that is damaged is rebuilt from the run's journal, which is said in a warning.

    Args:
        path: The checkpoint's directory.
        verify: Whether to compare the tensors with their checksums; everything else always is.
        history: Whether the history is wanted. Else its series may be empty.

    Raises:
        CorruptCheckpoint: It is not whole; the message names the file, or the path of the tensor.
    """
    path = Path(path)
    reader = Reader(path)
    tree, info, chain = reader.tree(verify=verify), reader.info(), reader.manifest.chain
    if chain is None:
        return Whole(tree, info, None)
    if type(tree) is not dict or type(tree.get("history")) is not dict:
        raise CorruptCheckpoint(
            path, f"{MANIFEST}: it says where the history lies, and the state has no place for it"
        )
    if not history:
        tree["history"]["series"] = placeholders(chain)
        return Whole(tree, info, None)
    past = read_past(path, chain, info)
    if past.remark is not None:
        warnings.warn(f"{path}: {past.remark}", stacklevel=2)
    tree["history"]["series"] = {name: as_state(series) for name, series in past.series.items()}
    return Whole(tree, info, past.chain)


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
    return read_whole(path, verify=verify)[:2]
