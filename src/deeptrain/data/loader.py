"""`BatchLoader`: batches of a source in a reproducible order, at any position, with a cursor of consumed ones."""

from __future__ import annotations

import warnings
import zlib
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from deeptrain.data.batch import Batch, RowIds, SetTable, is_run, map_tensors
from deeptrain.data.blocks import joined
from deeptrain.data.buffers import Buffers
from deeptrain.data.chain import Chain
from deeptrain.data.checks import at_least
from deeptrain.data.dataset import StreamingSource
from deeptrain.data.edits import BatchSize, Exclude, Repeat, Skip
from deeptrain.data.feed import CursorFeed, Position
from deeptrain.data.plan import Plan
from deeptrain.data.prefetch import Prefetch
from deeptrain.data.preprocess import Preprocessor
from deeptrain.data.running import Closable, Running
from deeptrain.data.seeded import Work
from deeptrain.data.source import RangeSource, Source, StoredSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deeptrain.data.blocks import Stretch
    from deeptrain.data.edits import Edit
    from deeptrain.data.order import Last, Shuffle

SAMPLE = 32  # rows that are looked at to notice other data
MOST_TOGETHER = 1 << 22  # rows that are read together: their order is computed at once, 0.1 us for each


class BatchLoader(CursorFeed):
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
        preprocess: Makes the iterations of each batch: a `Preprocessor` such as `Windows`, or a list of them.
        prefetch: How many bytes of batches may be read ahead by background threads, from sources that allow it; 0 reads
            each batch when it is asked for.
        threads: How many threads read ahead.
        cache: Which sets stay in memory once they are read: None, `"all"`, a number of bytes (the first sets that fit), or
            a list of set names. For sources that read from a disk.
        pin: Whether batches are put into page-locked memory, from which an accelerator copies faster. By default where
            there is a CUDA device.

    Attributes:
        steered: Set by who keeps a record of edits: given the loader and an edit, it makes the edit, or says that it did not.

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
        preprocess: Preprocessor | Sequence[Preprocessor] | None = None,
        prefetch: int = 1 << 26,
        threads: int = 2,
        cache: Literal["all"] | int | Sequence[str] | None = None,
        pin: bool | None = None,
    ) -> None:
        super().__init__(_one(preprocess, seed))
        if not isinstance(source, Source):
            raise TypeError(
                f"BatchLoader: found {type(source).__name__} as source, expected a Source: "
                f"dt.Arrays(inputs, targets) for tensors and arrays, dt.Files(path) for files, dt.FromDataset(dataset) for a "
                f"torch data set"
            )
        self._chained = isinstance(preprocess, list | tuple)  # then its seed is the loader's
        self.source = source
        self._sample: int | None = None
        self._table = SetTable(source.set_names, source.set_sizes)
        self._plan = Plan(
            self._table.sizes,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            group=group,
            shuffle_sets=shuffle_sets,
            last=last,
        )
        self._ranges = source if isinstance(source, RangeSource) else None
        self._stored = source if isinstance(source, StoredSource) else None
        self._buffers = Buffers(pin=torch.cuda.is_available() if pin is None else pin)
        self._streaming = source if isinstance(source, StreamingSource) else None
        self._running = Running(self._stream)
        self._ahead: Prefetch | None = None
        self.steered: Callable[[BatchLoader, Edit], bool] | None = None
        if self._stored is not None:
            self._stored.keep(_sets_to_keep(cache, self._table, self._stored))
            if at_least(0, "prefetch", prefetch):
                self._ahead = Prefetch(
                    self._read_alone, self._batches_in, most=prefetch, threads=at_least(1, "threads", threads)
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

    def rows(self, epoch: int, batch: int) -> RowIds:
        """Give the source's row ids of any batch: int64 of shape `(size,)`; nothing is read.

        Raises:
            IndexError: There is no such batch.
        """
        return self._plan.rows(epoch, batch)

    # ------------------------------------------------------------------ edits

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The edits of the order, as plain values, in the order in which they were made."""
        return self._plan.edits

    def skip(self, *, sets: Sequence[str] = (), rows: Sequence[int] = (), batches: int | None = None) -> None:
        """Pass over what is still to come of some sets or rows in this epoch, or over the next batches.

        Raises:
            KeyError: There is no set of that name.
            ValueError: Nothing is named, or nothing would be left.
        """
        self._edit(Skip(sets=self._indices(sets), rows=_ids(rows), batches=batches))

    def exclude(self, *, sets: Sequence[str] = (), rows: Sequence[int] = ()) -> None:
        """Leave some sets or rows out from here on, in this epoch and all later ones.

        Raises:
            KeyError: There is no set of that name.
            ValueError: Nothing is named, or nothing would be left.
        """
        self._edit(Exclude(sets=self._indices(sets), rows=_ids(rows)))

    def repeat(
        self, *, sets: Sequence[str] = (), rows: Sequence[int] = (), batches: int | None = None
    ) -> None:
        """Give some sets or rows, or the last batches once more; then the order goes on where it was.

        Raises:
            KeyError: There is no set of that name.
            ValueError: Nothing is named, or so many batches were not served in this epoch.
        """
        self._edit(Repeat(sets=self._indices(sets), rows=_ids(rows), batches=batches))

    def set_batch_size(self, batch_size: int) -> None:
        """Cut the batches from here on in another size, in this epoch and all later ones.

        Raises:
            ValueError: It is below 1.
        """
        self._edit(BatchSize(batch_size))

    def _edit(self, edit: Edit) -> None:
        """Make an edit, or have the run make it that the loader feeds, so that it is part of its record."""
        if self.steered is None or not self.steered(self, edit):
            self.prepared(edit)()

    def prepared(self, edit: Edit, epoch: int | None = None) -> Callable[[], None]:
        """See that an edit can be made, and give what makes it.

        Args:
            edit: What is to be other.
            epoch: From which later epoch's beginning on; by default from the cursor on.

        Raises:
            ValueError: It cannot; nothing was changed.
        """
        if epoch is not None and epoch != self.position.epoch:
            return self._prepared_later(edit, epoch)
        epoch, batch, iteration = self.position
        if self.phase == "val":
            raise ValueError(
                "the order of a validation's loader is not to be edited, as each pass is to see the same rows: validate on "
                "other sets, dt.Files(path, sets=...)"
            )
        if iteration:
            raise ValueError(
                f"the order cannot be edited between two pieces of batch {batch}: {iteration} of them are done; "
                f"go on to the batch's end first"
            )
        # A cursor that was moved back before an edit: what was edited behind it is to come no more.
        before = self._plan.until(epoch, batch)
        if before is not self._plan:
            warnings.warn(
                f"the edits that were made behind batch {batch} of epoch {epoch} are dropped: the order is edited anew there",
                stacklevel=3,
            )
        plan = before.edited(epoch, batch, edit)
        if plan.batches(epoch) <= batch:
            raise ValueError(
                f"the edit would leave no batch of epoch {epoch} behind batch {batch}: leave at least one, or go on to the "
                f"next epoch first"
            )
        return lambda: self._follow(plan, epoch, batch)

    def _prepared_later(self, edit: Edit, epoch: int) -> Callable[[], None]:
        if epoch < self.position.epoch:
            raise ValueError(
                f"the order cannot be edited in epoch {epoch}: the cursor is in epoch {self.position.epoch}"
            )
        plan = self._plan.until(epoch, 0).edited(epoch, 0, edit)

        def make() -> None:
            position = self._position
            self._follow(plan, position.epoch, position.batch)
            self._position = position

        return make

    def mark(self) -> tuple[Plan, Position]:
        """Note how the order is edited and where the cursor stands."""
        return self._plan, self._position

    def back_to(self, mark: tuple[Plan, Position]) -> None:
        """Undo what edits and moves there were since `mark`."""
        plan, position = mark
        if plan is not self._plan:
            self._follow(plan, position.epoch, position.batch)
        self._position = position

    def _follow(self, plan: Plan, epoch: int, batch: int) -> None:
        """Go by another plan from a position on; what was read ahead under the old one is forgotten."""
        self._plan = plan
        self._forget()
        self.seek(epoch=epoch, batch=batch)

    def _forget(self) -> None:
        """Let go of what was read ahead."""
        self._running.close()
        if self._ahead is not None:
            self._ahead.clear()

    def _indices(self, sets: Sequence[str]) -> tuple[int, ...]:
        return tuple(self._table.index(name) for name in ([sets] if isinstance(sets, str) else sets))

    # ------------------------------------------------------------------ state

    def settings(self) -> dict[str, Any]:
        """Describe source and order in plain values."""
        if self._sample is None and self._streaming is None:  # what its code draws is no fingerprint
            self._sample = _checksum(self.source)
        made = {} if self.preprocess is None else {"preprocess": self.preprocess.settings()}
        return {"source": self.source.describe() | {"sample": self._sample}} | self._plan.settings() | made

    def state_dict(self) -> dict[str, Any]:
        """Give the cursor, the settings under which it has its meaning, and the edits."""
        return super().state_dict() | {"edits": self._plan.edits}

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
        wanted = present | {name: settings[name] for name in self.changeable if name in settings}
        if isinstance(self.preprocess, Chain) and self._chained:
            self.preprocess.seed = wanted["seed"]
        if wanted != present:
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

    def _batches_in(self, epoch: int) -> int:
        return self._plan.batches(epoch)

    def _batches_until(self, epoch: int) -> int:
        # Epochs differ in length only where they were edited, and from there on.
        edited = {place for known in self._plan.edited_epochs for place in (known, known + 1)}
        marks = [0, *sorted(place for place in edited if 0 < place < epoch), epoch]
        return sum((stop - start) * self._plan.batches(start) for start, stop in pairwise(marks))

    def _read(self, epoch: int, batch: int) -> Batch:
        if self._streaming is not None:
            rows, padded = self._plan.rows(epoch, batch), self._plan.padded(epoch, batch)
            return self._made_of(self._running.take(Position(epoch, batch)), epoch, batch, rows, padded)
        if self._ahead is not None:
            return self._ahead.get(epoch, batch)
        return self._read_alone(epoch, batch)

    def _read_alone(self, epoch: int, batch: int) -> Batch:
        """Read a batch here and now, whatever else is under way; any thread may."""
        near = self._plan.keeps_sets_together
        span, padded = self._plan.place(epoch, batch)
        stretches: tuple[Stretch, ...] = ()
        if span is not None:
            rows = np.arange(*span)
        else:
            if self._stored is not None and not near:
                stretches = self._plan.stretches(epoch, batch, MOST_TOGETHER)
            rows = joined(stretches) if stretches and not padded else self._plan.rows(epoch, batch)
            if near and is_run(rows):
                span = int(rows[0]), int(rows[-1]) + 1
        if self._streaming is not None:
            found = self._streaming.read_batch(self._seed(), Work.of(epoch, batch, rows))
        elif self._stored is not None:
            found = self._stored.read_stored(rows, span, stretches, self._buffers.take, near=near)
        elif self._ranges is not None and span is not None:
            found = self._ranges.read_range(*span)
        else:
            found = self.source.read(rows)
        return self._made_of(found, epoch, batch, rows, padded)

    def _made_of(self, found: Any, epoch: int, batch: int, rows: RowIds, padded: int) -> Batch:
        inputs, targets, *classes = found
        return Batch(
            inputs,
            targets,
            epoch,
            batch,
            rows,
            self._table,
            class_labels=classes[0] if classes else None,
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


def _ids(rows: Any) -> Any:
    """Give row numbers as they can be checked: tensors as arrays, and masks refused."""
    found = rows.numpy() if isinstance(rows, torch.Tensor) else rows
    if getattr(found, "dtype", None) == np.bool_ or (
        isinstance(found, list | tuple) and True in map(_is_bool, found)
    ):
        raise TypeError("rows: found booleans, expected row numbers: give np.flatnonzero(mask)")
    return found


def _is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


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
