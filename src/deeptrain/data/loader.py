"""`BatchLoader`: batches of a source in a reproducible order, at any position, with a cursor of consumed ones."""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from deeptrain.data import together
from deeptrain.data.batch import Batch, RowIds, SetTable, is_run, map_tensors
from deeptrain.data.blocks import joined
from deeptrain.data.buffers import Buffers
from deeptrain.data.chain import Chain
from deeptrain.data.checks import at_least
from deeptrain.data.dataset import StreamingSource
from deeptrain.data.editing import EditedFeed
from deeptrain.data.feed import Position
from deeptrain.data.plan import Plan
from deeptrain.data.prefetch import Prefetch
from deeptrain.data.preprocess import Preprocessor
from deeptrain.data.running import Closable, Running
from deeptrain.data.seeded import Work
from deeptrain.data.source import RangeSource, Source, StoredSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deeptrain.data.blocks import Stretch
    from deeptrain.data.order import Last, Shuffle

SAMPLE = 32  # rows that are looked at to notice other data
MOST_TOGETHER = 1 << 22  # rows that are read together: their order is computed at once, 0.1 us for each


LIMITS = ("limit_batches", "overfit")  # settings that are named only where they are set


class _Asked(NamedTuple):
    """The rows of a batch, and how they are best read; see `StoredSource.read_stored`."""

    rows: RowIds
    span: tuple[int, int] | None = None
    stretches: tuple[Stretch, ...] = ()
    near: bool = False


class BatchLoader(EditedFeed):
    """Loads batches of a source; usable in any loop, and exactly resumable.

    Iterating gives the rest of the present epoch, piece by piece where a preprocessor makes several of a batch. A batch
    counts as consumed when it is handed out; after the last one the cursor stands at the start of the next epoch.

    Args:
        source: `Arrays`, `Files`, `FromDataset`, or anything that follows the `Source` protocol.
        batch_size: Rows in a batch; any number, whatever the sets' sizes.
        shuffle: None, `"sets"` (order of the sets), `"batches"` (batches within groups of sets), `"samples"` (rows within
            groups of sets), `"global"` (all rows), or True for `"global"`.
        seed: The order's seed; with the epoch, the batch's index and the edits it alone says which rows come.
        group: Sets in a group, under `"batches"` and `"samples"`.
        shuffle_sets: Whether those two shuffle the order of the sets too.
        last: Whether a short last batch is `"keep"`-ed, `"drop"`-ped, or `"pad"`-ded with rows from the epoch's beginning.
        limit_batches: An epoch is over after so many batches, for trying out; None for all of them.
        overfit: Each epoch is the same so many batches, the first ones of the first epoch: a model that learns can have them by
            heart. None for all of the data.
        preprocess: Makes the iterations of each batch: a `Preprocessor` such as `Windows`, or a list of them.
        prefetch: How many bytes of batches may be read ahead by background threads, from sources that allow it; 0 reads
            each batch when it is asked for.
        threads: How many threads read ahead.
        cache: Which sets stay in memory once they are read: None, `"all"`, a number of bytes (the first sets that fit), or
            a list of set names. For sources that read from a disk.
        pin: Whether batches are put into page-locked memory, from which an accelerator copies faster. By default where
            there is a CUDA device.

    Raises:
        ValueError: A setting is out of range, or there are no rows.
        TypeError: The source is none.

    Example:
        >>> import torch
        >>> from deeptrain.data import Arrays
        >>> loader = BatchLoader(Arrays(torch.zeros(10, 4)), batch_size=4)
        >>> [batch.size for batch in loader]
        [4, 4, 2]
    """

    changeable: ClassVar[tuple[str, ...]] = (
        "batch_size",
        "shuffle",
        "seed",
        "group",
        "shuffle_sets",
        "last",
        *LIMITS,
    )

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        shuffle: Shuffle = None,
        seed: int = 0,
        group: int = 8,
        shuffle_sets: bool = True,
        last: Last = "keep",
        limit_batches: int | None = None,
        overfit: int | None = None,
        preprocess: Preprocessor | Sequence[Preprocessor] | None = None,
        prefetch: int = 1 << 26,
        threads: int = 2,
        cache: Literal["all"] | int | Sequence[str] | None = None,
        pin: bool | None = None,
    ) -> None:
        if not isinstance(source, Source):
            raise TypeError(
                f"BatchLoader: found {type(source).__name__} as source, expected a Source: "
                f"dt.Arrays(inputs, targets) for tensors and arrays, dt.Files(path) for files, dt.FromDataset(dataset) for a "
                f"torch data set"
            )
        self._chained = isinstance(preprocess, list | tuple)  # then its seed is the loader's
        self.source = source
        self._sample: int | None = None
        table = SetTable(source.set_names, source.set_sizes)
        plan = Plan(
            table.sizes,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            group=group,
            shuffle_sets=shuffle_sets,
            last=last,
            limit_batches=limit_batches,
            overfit=overfit,
        )
        super().__init__(_one(preprocess, seed), table, plan)
        self._ranges = source if isinstance(source, RangeSource) else None
        self._stored = source if isinstance(source, StoredSource) else None
        self._buffers = Buffers(pin=torch.cuda.is_available() if pin is None else pin)
        self._streaming = source if isinstance(source, StreamingSource) else None
        self._running = Running(self._stream)
        self._ahead: Prefetch | None = None
        if self._stored is not None:
            self._stored.keep(_sets_to_keep(cache, self._table, self._stored))
            if at_least(0, "prefetch", prefetch):
                self._at_once = min(prefetch, together.MOST) // max(1, self._stored.row_bytes)
                self._ahead = Prefetch(
                    self._read_alone,
                    self._batches_in,
                    most=prefetch,
                    threads=at_least(1, "threads", threads),
                    read_together=self._read_together,
                )

    @property
    def rows_total(self) -> int:
        """Rows of the source."""
        return sum(self._table.sizes)

    def __len__(self) -> int:
        """Batches in the cursor's epoch."""
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        """Give the rest of the cursor's epoch, moving the cursor along."""
        return _RestOfEpoch(self)

    def _forget(self) -> None:
        """Let go of what was read ahead."""
        self._running.close()
        if self._ahead is not None:
            self._ahead.clear()

    # ------------------------------------------------------------------ state

    def settings(self) -> dict[str, Any]:
        """Describe source and order in plain values."""
        if self._sample is None and self._streaming is None:  # what its code draws is no fingerprint
            self._sample = _checksum(self.source)
        made = {} if self.preprocess is None else {"preprocess": self.preprocess.settings()}
        return {"source": self.source.describe() | {"sample": self._sample}} | self._plan.settings() | made

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a recorded cursor and to the edits of then. See `CursorFeed.load_state_dict`."""
        before = self._plan
        self._forget()
        try:
            self._plan = Plan(self._table.sizes, **self._plan.settings(), edits=state.get("edits", []))
            super().load_state_dict(state)
        except IndexError as error:
            self._plan = before
            raise ValueError(
                f"BatchLoader state does not fit: its edits are of an order with other batches ({error}); give the loader the "
                f"recorded settings: resume='keep' does, adopt(state['settings']) for a loader alone"
            ) from error
        except BaseException:
            self._plan = before
            raise

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take the order's settings from a record.

        Where they differ from the present ones the cursor goes to its epoch's start, and edits are dropped, as places
        within an epoch have no meaning under another order.

        Args:
            settings: What `settings` gave; entries that are missing stay as they are, the source's is not looked at.

        Raises:
            ValueError: A setting is out of range.
        """
        present = self._plan.settings()
        if "batch_size" in settings:  # of a whole order: limits that it does not name were not set
            present = {name: value for name, value in present.items() if name not in LIMITS}
        wanted = present | {name: settings[name] for name in self.changeable if name in settings}
        if isinstance(self.preprocess, Chain) and self._chained:
            self.preprocess.seed = wanted["seed"]
        if wanted != self._plan.settings():
            self._follow(Plan(self._table.sizes, **wanted), self.position.epoch, 0)

    def close(self) -> None:
        """Let go of the held batch, of what was read ahead, and of the source's files."""
        super().close()
        self._running.close()
        if self._ahead is not None:
            self._ahead.close()
        if self._stored is not None:
            self._stored.close()

    # ------------------------------------------------------------------ reading

    def _seed(self) -> int:
        return self._plan.seed

    def _row_shape(self) -> tuple[int, ...] | None:
        return self._shape_of_rows

    @cached_property
    def _shape_of_rows(self) -> tuple[int, ...] | None:
        if self._stored is None and self._ranges is None:
            return None  # each row may have its own, and reading one may run the user's code
        inputs = self.source.read(np.zeros(1, np.int64))[0]
        return tuple(inputs.shape[1:]) if isinstance(inputs, torch.Tensor) else None

    def _read(self, epoch: int, batch: int) -> Batch:
        if self._streaming is not None:
            rows, padded = self._plan.rows(epoch, batch), self._plan.padded(epoch, batch)
            return self._made_of(self._running.take(Position(epoch, batch)), epoch, batch, rows, padded)
        if self._ahead is not None:
            return self._ahead.get(epoch, batch)
        return self._read_alone(epoch, batch)

    def _read_alone(self, epoch: int, batch: int) -> Batch:
        """Read a batch here and now, whatever else is under way; any thread may."""
        span, padded = self._plan.place(epoch, batch)
        if span is not None:
            asked = _Asked(np.arange(*span), span, near=self._plan.keeps_sets_together)
        else:
            asked = self._rows_apart(epoch, batch, padded)
        return self._made_of(self._found(epoch, batch, asked), epoch, batch, asked.rows, padded)

    def _read_together(self, epoch: int, batch: int) -> list[Batch]:
        """Read a batch, and those behind it that cost less when they are read with it."""
        size = self._plan.batch_size(epoch, batch)
        asked = self._asked_together(epoch, batch, size)
        if asked is None or len(asked.rows) <= size:
            return [self._read_alone(epoch, batch)]
        try:
            found = self._found(epoch, batch, asked)
        except Exception:  # noqa: BLE001 - it belongs to one of the batches, and is raised where that one is read
            return [self._read_alone(epoch, batch)]
        pieces = together.cut(found, size, -(-len(asked.rows) // size))
        return [
            self._made_of(piece, epoch, batch + place, asked.rows[place * size : (place + 1) * size], 0)
            for place, piece in enumerate(pieces)
        ]

    def _asked_together(self, epoch: int, batch: int, size: int) -> _Asked | None:
        """Give the rows of a batch and of some behind it, where these are a range, or lie in the same stretch."""
        if self._plan.is_edited(epoch) or self._plan.is_limited:
            return None
        if self._plan.keeps_sets_together:
            run = self._plan.run(epoch, batch, self._at_once)
            near = len(run) + size > self._at_once  # the rest of the set is asked for next
            return _Asked(np.arange(run.start, run.stop), (run.start, run.stop), near=near)
        stretches = self._plan.stretches(epoch, batch, MOST_TOGETHER)
        if len(stretches) != 1:
            return None
        # Less the stretch's last row: what holds that is copied, so that the stretch's memory is free for the next one.
        one = stretches[0]
        stop = min(one.start + self._at_once, len(one.rows) - 1)
        one = one._replace(stop=stop - (stop - one.start) % size)
        return _Asked(one.rows[one.start : one.stop], stretches=(one,))

    def _rows_apart(self, epoch: int, batch: int, padded: int) -> _Asked:
        """Give the rows of a batch that are not known to follow each other, and how they are best read."""
        if self._plan.keeps_sets_together:
            rows = self._plan.rows(epoch, batch)
            return _Asked(rows, (int(rows[0]), int(rows[-1]) + 1) if is_run(rows) else None, near=True)
        stretches = () if self._stored is None else self._plan.stretches(epoch, batch, MOST_TOGETHER)
        if stretches and not padded:
            return _Asked(joined(stretches), stretches=stretches)
        return _Asked(self._plan.rows(epoch, batch), stretches=stretches)

    def _read_rows(self, epoch: int, batch: int, rows: RowIds, padded: int) -> Batch:
        return self._made_of(self._found(epoch, batch, _Asked(rows)), epoch, batch, rows, padded)

    def _found(self, epoch: int, batch: int, asked: _Asked) -> Any:
        rows, span, stretches, near = asked
        if self._streaming is not None:
            return self._streaming.read_batch(self._seed(), Work.of(epoch, batch, rows))
        if self._stored is not None:
            found = self._stored.read_stored(rows, span, stretches, self._buffers.take, near=near)
            # A batch may be a piece of what was read together, and that lies in memory which is not page-locked.
            return map_tensors(found, self._buffers.pinned) if self._buffers.pin else found
        if self._ranges is not None and span is not None:
            return self._ranges.read_range(*span)
        return self.source.read(rows)

    def _made_of(self, found: Any, epoch: int, batch: int, rows: RowIds, padded: int) -> Batch:
        inputs, targets, *more = found
        return Batch(
            inputs,
            targets,
            epoch,
            batch,
            rows,
            self._table,
            class_labels=more[0] if more else None,
            weights=more[1] if len(more) > 1 else None,
            padded=padded,
        )

    def _stream(self, position: Position) -> Closable:
        """Let the source's workers read the rest of a position's epoch."""
        assert self._streaming is not None
        (epoch, first, _), plan = position, self._plan
        # Nothing of `self` in it, which would keep a loader that was dropped alive, and its workers with it.
        work = (Work.of(epoch, batch, plan.rows(epoch, batch)) for batch in range(first, plan.batches(epoch)))
        return self._streaming.open(self._seed(), epoch, work)


def _one(preprocess: Preprocessor | Sequence[Preprocessor] | None, seed: int) -> Preprocessor | None:
    if preprocess is None or isinstance(preprocess, Preprocessor):
        return preprocess
    if not isinstance(preprocess, list | tuple):
        raise TypeError(
            f"BatchLoader: found {preprocess!r} as preprocess, expected a Preprocessor such as dt.Windows(50), or a list of "
            f"them; wrap a function: dt.Augment(fn)"
        )
    return Chain(*preprocess, seed=seed)


def _sets_to_keep(cache: Any, table: SetTable, source: StoredSource) -> list[int]:
    """Say which sets a loader's `cache` means, by their indices."""
    if cache is None:
        return []
    if cache == "all":
        return list(range(len(table.names)))
    if isinstance(cache, int) and not isinstance(cache, bool):
        ends = np.cumsum(table.sizes) * source.row_bytes
        return list(range(int(np.searchsorted(ends, cache, side="right"))))
    if not isinstance(cache, list | tuple):
        raise TypeError(f"cache={cache!r}: expected None, 'all', a number of bytes, or a list of set names")
    return [table.index(name) for name in cache]


def _checksum(source: Source) -> int:
    """A checksum of some rows spread over the source, to notice that its data were changed since."""
    rows = np.unique(np.linspace(0, source.n_rows - 1, SAMPLE).astype(np.int64))
    found = 0

    def add(tensor: torch.Tensor) -> None:
        nonlocal found
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = zlib.crc32(plain.numpy().tobytes(), found)

    map_tensors(source.read(rows), add)
    return found


class _RestOfEpoch:
    """An iterator over what is left of an epoch; after an error it goes on where a generator would end."""

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader
        self._epoch = loader.position.epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._loader.position.epoch != self._epoch:
            raise StopIteration
        batch = self._loader.fetch()
        self._loader.advance(whole=self._loader.ends_batch(None))
        return batch
