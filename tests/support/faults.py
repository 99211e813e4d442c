"""Faults under a writer: each system call that it makes can be failed, cut short, or be the last of its process.

`Layer` stands over functions of `os` and counts the calls below a directory. `Disk` follows those calls as a file
system that promises only what fsync promises, and shows what a power failure may leave: writes that no fsync followed
lost, torn or turned to zeros, and changes of names that no fsync of their directory followed undone.
"""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")
KILLED = 77
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
TAKES_SPACE = ("open", "write", "mkdir", "rename", "replace")  # an open that creates


class Layer:
    """Counts the calls of `CALLS` below a directory while it is entered, and does something at one of them.

    Args:
        root: Only calls on paths below it, and on descriptors of such, are counted.
        at: The number of the call, from 0.
        what: "kill before", "kill after", "ENOSPC", "EIO", "short" (a write of half, other calls are left alone), or
            "full" (from this call on nothing that takes space succeeds, and the write itself does half).
        told: Called after each call with its name, arguments, keywords and result; the result is an OSError where it failed.
    """

    def __init__(self, root, at=None, what=None, told=None):
        self.root, self.at, self.what, self.told = Path(root), at, what, told
        self.calls = []
        self.done = False  # whether it came to the point
        self._descriptors = set()
        self._real = {}

    def __enter__(self):
        for name in (*CALLS, "close"):
            self._real[name] = getattr(os, name)
        for name in CALLS:
            setattr(os, name, self._standing_in(name))
        os.close = self._close
        return self

    def __exit__(self, *_):
        for name, real in self._real.items():
            setattr(os, name, real)

    def _standing_in(self, name):
        def call(*args, **kwargs):
            if not self._is_below(args[0], kwargs.get("dir_fd")):
                return self._real[name](*args, **kwargs)
            number = len(self.calls)
            self.calls.append((name, str(args[0])))
            try:
                result = self._do(name, number, args, kwargs)
            except OSError as error:
                result = error
            else:
                if name == "open":
                    self._descriptors.add(result)
            if self.told is not None:
                self.told(name, args, kwargs, result)
            if number == self.at and self.what == "kill after":
                os._exit(KILLED)
            if isinstance(result, OSError):
                raise result
            return result

        return call

    def _is_below(self, where, dir_fd):
        if isinstance(where, int):
            return where in self._descriptors
        if dir_fd is not None:
            return dir_fd in self._descriptors
        return Path(os.fspath(where)).is_relative_to(self.root)

    def _do(self, name, number, args, kwargs):
        real = self._real[name]
        reached = number == self.at or (self.what == "full" and self.done)
        if not reached or (self.what == "short" and name != "write"):
            return real(*args, **kwargs)
        first, self.done = not self.done, True
        if self.what == "kill before":
            os._exit(KILLED)
        if self.what in ("short", "full") and name == "write" and first:
            return real(args[0], memoryview(args[1])[: len(args[1]) // 2])
        if self.what in ERRORS:
            raise OSError(ERRORS[self.what], os.strerror(ERRORS[self.what]), str(args[0]))
        creates = name != "open" or args[1] & os.O_CREAT
        if self.what == "full" and name in TAKES_SPACE and creates:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        return real(*args, **kwargs)

    def _close(self, descriptor):
        self._descriptors.discard(descriptor)
        if self.told is not None:
            self.told("close", (descriptor,), {}, None)
        return self._real["close"](descriptor)


def exit_status(fn):
    """Call a function in a forked child; gives 0 where it returned, or `KILLED`."""
    child = os.fork()
    if child == 0:
        try:
            fn()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def no_descriptor_left():
    """See that a block closes what it opens, where the system can tell."""
    place = Path("/proc/self/fd")
    before = set(os.listdir(place)) if place.is_dir() else None
    yield
    assert before is None or len(os.listdir(place)) == len(before)


# ---------------------------------------------------------------------- power failures


class File:
    """A file: what it holds, and what of it is on the disk."""

    def __init__(self, data=b""):
        self.data, self.durable = bytearray(data), bytes(data)


class Directory:
    """A directory: its entries, those on the disk, and the changes in between in their order."""

    def __init__(self, entries=None):
        self.entries = dict(entries or {})
        self.durable = dict(self.entries)
        self.pending = []

    def change(self, *changes):
        """Set or drop (None) entries, all in one step."""
        self.pending.append(changes)
        _apply(self.entries, changes)


def _apply(entries, changes):
    for name, node in changes:
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class Disk:
    """What is below a directory, as a file system that keeps only what was fsynced; `told` is for a `Layer`."""

    MODES = ("lost", "names only", "zeros", "root late", "torn", "all")

    def __init__(self, root):
        self.root = Path(root)
        self.top = _scan(self.root)
        self._nodes = {}

    def told(self, name, args, kwargs, result):
        """Follow a call; one that failed changed nothing (a failed fsync least of all)."""
        if not isinstance(result, OSError):
            getattr(self, "_" + name)(*args, result=result, **kwargs)

    def image(self, mode, chance):
        """What a power failure at this moment may leave, as a dict of dicts and bytes."""
        return self._render(self.top, mode, chance)

    def as_it_is(self):
        """What the calls made of it: must be equal to what is really there, or some calls went past the layer."""
        return _plain(self.top)

    def _render(self, node, mode, chance):
        if isinstance(node, File):
            return _content(node, mode, chance)
        late = mode == "lost" or (mode == "root late" and node is self.top_store)
        count = 0 if late else len(node.pending)
        if mode == "torn":
            count = chance.randint(0, len(node.pending))
        entries = dict(node.durable)
        for changes in node.pending[:count]:
            _apply(entries, changes)
        return {name: self._render(entry, mode, chance) for name, entry in entries.items()}

    @property
    def top_store(self):
        """The directory in which names change places."""
        return self.top.entries.get("checkpoints", self.top)

    def _find(self, path, dir_fd=None):
        """The directory that holds a path, and the path's name in it; the top has no name."""
        if dir_fd is not None:
            return self._nodes[dir_fd], os.fspath(path)
        parts = Path(os.fspath(path)).relative_to(self.root).parts
        node = self.top
        for part in parts[:-1]:
            node = node.entries[part]
        return node, parts[-1] if parts else None

    def _open(self, path, flags, mode=0o777, *, dir_fd=None, result):
        parent, name = self._find(path, dir_fd)
        node = parent if name is None else parent.entries.get(name)
        if node is None:
            assert flags & os.O_CREAT, path
            node = File()
            parent.change((name, node))
        if flags & os.O_TRUNC:
            node.data.clear()
        self._nodes[result] = node

    def _write(self, descriptor, data, *, result):
        # The writers under test write new files from the front to the end, so that a position is not followed.
        self._nodes[descriptor].data += bytes(data)[:result]

    def _fsync(self, descriptor, *, result):
        node = self._nodes[descriptor]
        if isinstance(node, File):
            node.durable = bytes(node.data)
        else:
            node.durable, node.pending = dict(node.entries), []

    def _close(self, descriptor, *, result):
        self._nodes.pop(descriptor, None)

    def _rename(self, old, new, *, result, **_):
        (parent, name), (other, to) = self._find(old), self._find(new)
        assert parent is other, "a rename between directories is not followed"
        parent.change((to, parent.entries[name]), (name, None))

    _replace = _rename

    def _mkdir(self, path, mode=0o777, *, dir_fd=None, result):
        parent, name = self._find(path, dir_fd)
        parent.change((name, Directory()))

    def _unlink(self, path, *, dir_fd=None, result):
        parent, name = self._find(path, dir_fd)
        parent.change((name, None))

    _rmdir = _unlink


def _content(file, mode, chance):
    if mode in ("lost", "names only"):
        return file.durable
    late = bytes(file.data[len(file.durable) :])
    if mode == "zeros":
        late = b"\0" * len(late)
    if mode == "torn" and late:
        # Some pieces of what was on its way came, in any order; perhaps the file is short too.
        pieces = [late[at : at + 16] for at in range(0, len(late), 16)]
        pieces = [piece if chance.random() < 0.5 else b"\0" * len(piece) for piece in pieces]
        late = b"".join(pieces)[: chance.randint(0, len(late))]
    return file.durable + late


def _scan(path):
    if path.is_dir():
        return Directory({entry.name: _scan(entry) for entry in path.iterdir()})
    return File(path.read_bytes())


def _plain(node):
    if isinstance(node, File):
        return bytes(node.data)
    return {name: _plain(entry) for name, entry in node.entries.items()}


def on_disk(path):
    """What is really below a directory, as an image."""
    return _plain(_scan(Path(path)))


def lay_out(image, path):
    """Make the files of an image in a new directory."""
    path.mkdir()
    for name, entry in image.items():
        if isinstance(entry, dict):
            lay_out(entry, path / name)
        else:
            (path / name).write_bytes(entry)
