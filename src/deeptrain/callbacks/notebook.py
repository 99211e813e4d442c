"""A notebook's output area that is drawn again in its place. IPython is imported only where a notebook is found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeptrain.callbacks.board import Board

SHELL = "ZMQInteractiveShell"  # a kernel's; Colab's and others' derive from it, a terminal's does not


def in_notebook() -> bool:
    """Whether the process is a notebook's kernel, whose outputs can be drawn again."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else getattr(ipython, "get_ipython", lambda: None)()
    return any(kind.__name__ == SHELL for kind in type(shell).__mro__)


class Area:
    """One output area of a cell. The first drawing makes it, the others change it.

    Attributes:
        gone: Why nothing is drawn any more, or None.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self.gone: str | None = None

    def draw(self, board: Board) -> None:
        """Show a board; where that fails, nothing is shown from then on, and the training goes on."""
        if self.gone is not None:
            return
        try:
            self._draw(board)
        except Exception as error:  # noqa: BLE001 - the front end's, which may be any; a sink harms no run
            self.gone = f"{type(error).__name__}: {error}"

    def _draw(self, board: Board) -> None:
        from IPython.display import display  # noqa: PLC0415 - it is there: this is a notebook

        if self._handle is None:
            self._handle = display(board, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(board)
