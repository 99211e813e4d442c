"""What holds a lock says here how it begins anew in a forked child, where another thread's lock is never freed."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewed(Protocol):
    """Something with locks, or with what other threads of the parent were about to do."""

    def renew(self) -> None:
        """Begin anew, in a child process."""


_known: weakref.WeakSet[Renewed] = weakref.WeakSet()


def renew_in_children(thing: Renewed) -> None:
    """Have `thing.renew()` called in each child process that is forked while the thing lives."""
    _known.add(thing)


def _in_child() -> None:
    for thing in list(_known):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
