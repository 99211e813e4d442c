"""The command `deeptrain convert SRC DST`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

EXAMPLE = "example: deeptrain convert old new --format hdf5 --rows-per-set 128 --shuffle 0"


def add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line's."""
    parser = commands.add_parser(
        "convert", help="write data in another format, in sets of another size", epilog=EXAMPLE
    )
    # Formats are checked where they are known, as that costs an import.
    parser.add_argument("source", metavar="SRC", type=Path, help="a directory of sets, or one file")
    parser.add_argument("target", metavar="DST", type=Path, help="the directory to make")
    parser.add_argument(
        "--format", default="npy", help="npy, npz, hdf5, csv, parquet, zarr, blosc2, zstd or lz4"
    )
    parser.add_argument(
        "--rows-per-set", type=int, required=True, metavar="N", help="the last set may have fewer"
    )
    parser.add_argument("--labels", type=Path, metavar="PATH", help="where they are, if not beside the sets")
    parser.add_argument(
        "--label-files", default="one file", metavar="HOW", help='"one file" (default) or "one per set"'
    )
    parser.add_argument("--name", default="set", help="what the files' names begin with (default: set)")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="write the rows in another order")
    parser.add_argument(
        "--remainder", default="keep", metavar="HOW", help="keep (default), drop or oversample"
    )
    parser.add_argument("--dtype", help="cast the inputs, to float32 for example")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the directory, if it is one of sets alone"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.set_defaults(run=run_convert)


def run_convert(parsed: argparse.Namespace) -> int:
    """Convert, and say what was written; the exit status is 0, as whatever goes wrong is raised."""
    from deeptrain.data.convert import convert  # noqa: PLC0415 - a command pays for what it uses

    settings: dict[str, Any] = {
        name: getattr(parsed, name)
        for name in (
            "format",
            "rows_per_set",
            "labels",
            "label_files",
            "name",
            "remainder",
            "dtype",
            "overwrite",
        )
    }
    shuffle = False if parsed.shuffle is None else parsed.shuffle
    try:
        written = convert(
            parsed.source, parsed.target, shuffle=shuffle, progress=not parsed.quiet, **settings
        )
    except (
        ImportError
    ) as error:  # a format's library: the command line shows errors of values, not of programs
        raise RuntimeError(str(error)) from error
    print(written)  # noqa: T201 - a command's answer
    return 0
