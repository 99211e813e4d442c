"""One checkpoint on disk: a directory that is either whole or not there.

    000012/
        tensors.safetensors    every tensor and array, named by its path in the state
        state.json             everything else, see `codec`
        manifest.json          sizes and checksums of the two, and what the caller says of the checkpoint

The files are written into a temporary sibling directory and fsynced, the manifest last; then the directory is
renamed, its parent fsynced, and everything read back. Every bit of every file is under a checksum: state.json
as a whole, the tensors file's header and each tensor, and the manifest by its first line.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.codec import Encoded, encode
from deeptrain.checkpoint.files import (
    CheckpointError,
    make_directory,
    require_space,
    sync_directory,
    sync_file,
    temporary_beside,
    write_bytes,
)
from deeptrain.checkpoint.manifest import MANIFEST, STATE, TENSORS, Manifest
from deeptrain.checkpoint.reading import CorruptCheckpoint, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    import torch

__all__ = [
    "CheckpointError",
    "CorruptCheckpoint",
    "read_checkpoint",
    "read_info",
    "verify",
    "write_checkpoint",
]

_HEADER = 256  # bytes that a tensor's entries take in the two headers, about


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
    encoded, about = encode(tree), encode(info)
    if about.tensors:
        raise CheckpointError(
            f"{path}: the info holds tensors or arrays ({', '.join(about.tensors)}): numbers only"
        )
    state = json.dumps(encoded.json, allow_nan=False, separators=(",", ":")).encode()
    tensors = _on_cpu(encoded)
    with _one_step(path, size=_size(state, tensors)) as temporary:
        _write_tensors(temporary / TENSORS, tensors)
        write_bytes(temporary / STATE, state)
        sync_directory(temporary)
        manifest = Manifest.of(temporary / TENSORS, state, tensors, about.json, sequence)
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
        verify(path)
        whole = True
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint could not be written: {error}") from error
    finally:
        if not whole:
            shutil.rmtree(made, ignore_errors=True)


def _on_cpu(encoded: Encoded) -> dict[str, torch.Tensor]:
    """The tensors as safetensors wants them: contiguous, on the CPU, no two in one storage."""
    ready: dict[str, torch.Tensor] = {}
    storages = set()
    for name, tensor in encoded.tensors.items():
        here = tensor.cpu().contiguous()
        storage = here.untyped_storage().data_ptr()
        ready[name] = here.clone() if storage in storages else here
        storages.add(ready[name].untyped_storage().data_ptr())
    return ready


def _size(state: bytes, tensors: dict[str, torch.Tensor]) -> int:
    return len(state) + sum(t.nbytes + 2 * len(name) + _HEADER for name, t in tensors.items())


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError  # noqa: PLC0415 - for `import deeptrain` to cost little
    from safetensors.torch import save_file  # noqa: PLC0415

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # also for a full disk
        raise CheckpointError(f"{path}: the tensors could not be written: {error}") from error
    sync_file(path)


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
