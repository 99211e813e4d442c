"""`TensorBoardLogger`: figures, hyperparameters, interventions and pictures for TensorBoard."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar

from deeptrain.loggers.base import Logger, Picture, Place, Row
from deeptrain.loggers.csv_files import ENTRY, folder_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from os import PathLike

RGBA = 4  # TensorBoard's number for the kind of pixels; what the file itself says counts


class TensorBoardLogger(Logger):
    """Writes event files; `tensorboard --logdir runs` shows all runs. Needs `pip install "deeptrain[tensorboard]"`.

    When a run goes on after a kill, or goes back, the new file tells TensorBoard from which iteration on the older ones do not
    count any more, and what was not in them whole comes again.

    Args:
        directory: Where to; by default `tensorboard` in the run's directory. In one that is given, each run has its own.
    """

    drops_tail: ClassVar[bool] = True

    def __init__(self, directory: str | PathLike[str] | None = None) -> None:
        self._given = directory
        self._writer: Any = None
        self._at = 0

    def open(self, place: Place) -> None:
        """Begin a file. What older ones have from the start on is void."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - only where it is used, and installed

        folder = folder_for(self._given, place, "tensorboard")
        is_new = not any(folder.glob("events.*"))
        self._writer = SummaryWriter(str(folder), purge_step=None if is_new else place.start)
        self._at = place.start
        if not place.own.get("told"):  # texts are not void by what a later file says
            self._tell_hyperparameters(place.hyperparameters)
            place.own["told"] = True

    def _tell_hyperparameters(self, values: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415 - likewise

        plain = {name: "None" if value is None else value for name, value in values.items()}
        for summary in hparams(plain, {}):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary)
        self._writer.add_text("hyperparameters", _table(("name", "value"), values.items()), 0)

    def metrics(self, rows: Sequence[Row]) -> None:
        """One scalar for each; "train.loss" is shown as train/loss."""
        for at, figures in rows:
            for name, value in figures.items():
                self._writer.add_scalar(name.replace(".", "/", 1), value, at)
            self._at = at

    def interventions(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """A table of them all."""
        rows = [[entry[name] for name in ENTRY] for entry in entries]
        self._writer.add_text("interventions", _table(ENTRY, rows), self._at)

    def picture(self, picture: Picture) -> None:
        """The file as it is."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415 - likewise

        width, height = struct.unpack(">II", picture.png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=RGBA, encoded_image_string=picture.png)
        summary = Summary(value=[Summary.Value(tag=f"pictures/{picture.name}", image=image)])
        self._writer.file_writer.add_summary(summary, picture.at)

    def flush(self) -> None:
        """Have the writer's thread write all that waits."""
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
