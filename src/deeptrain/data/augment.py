"""`Augment`: a random transform of each batch, which the loader seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch

from deeptrain.data.batch import aligned, map_tensors
from deeptrain.data.preprocess import Phase, Preprocessor, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.data.batch import Batch

On: TypeAlias = Literal["inputs", "targets", "both"]


class Augment(Preprocessor):
    """Transforms each batch by a function that may draw random numbers.

    Before each call the loader seeds Python's, NumPy's and torch's global streams from its seed, the epoch, the batch
    and the piece, and puts them back afterwards. So a batch is transformed in the same way whenever it is read again,
    in a continued run too, and augmenting moves no other stream. A generator of the function's own is not covered.

    Args:
        fn: `fn(inputs) -> inputs`, or `fn(targets) -> targets`, or for both `fn(inputs, targets) -> (inputs, targets)`,
            so that one random choice is made for the two. It is given copies, and may change them in place. The
            number of rows stays.
        on: What is transformed: `"inputs"`, `"targets"` or `"both"`.
        validation: Whether batches are transformed in validation too.

    Raises:
        TypeError: `fn` cannot be called.
        ValueError: `on` is none of the three.

    Example:
        >>> flip = Augment(lambda x: x.flip(-1) if torch.rand(()) < 0.5 else x)
        >>> flip.random
        True
    """

    random = True

    def __init__(self, fn: Callable[..., Any], on: On = "inputs", *, validation: bool = False) -> None:
        if not callable(fn):
            raise TypeError(f"Augment: fn is a {type(fn).__name__}, expected a function of the batch's {on}")
        if on not in get_args(On):
            raise ValueError(f"Augment: on={on!r}, expected one of {', '.join(map(repr, get_args(On)))}")
        self.fn = fn
        self.on = on
        self.validation = validation

    def piece(self, batch: Batch, iteration: int, phase: Phase) -> Batch:  # noqa: ARG002 - the streams tell it
        """Give the transformed batch.

        Raises:
            ValueError: The function gave something else than it was given: another number of rows, or nothing.
        """
        if phase == "val" and not self.validation:
            return batch
        names = ("inputs", "targets") if self.on == "both" else (self.on,)
        if batch.targets is None and "targets" in names:
            raise ValueError(
                f"Augment: on={self.on!r}, but the batches have no targets; expected on='inputs'"
            )
        given = [map_tensors(getattr(batch, name), torch.clone) for name in names]
        returned = self.fn(*given)
        values = self._pair(returned) if self.on == "both" else (returned,)
        changes = {name: self._checked(value, name, batch) for name, value in zip(names, values, strict=True)}
        return batch.replaced(**changes)

    def settings(self) -> dict[str, Any]:
        """Describe it in plain values."""
        return super().settings() | {"fn": name_of(self.fn), "on": self.on, "validation": self.validation}

    def _pair(self, returned: Any) -> tuple[Any, ...]:
        if isinstance(returned, tuple) and len(returned) == len(("inputs", "targets")):
            return returned
        raise ValueError(
            f"Augment: {name_of(self.fn)} returned a {type(returned).__name__}, expected the two values "
            f"(inputs, targets), as on='both'"
        )

    def _checked(self, value: Any, name: str, batch: Batch) -> Any:
        """Take over what the function gave, where it has the batch's rows; unaligned views of it are copied."""
        lengths: list[int | None] = []
        map_tensors(value, lambda tensor: lengths.append(len(tensor) if tensor.dim() else None))
        if not lengths or any(length != batch.size for length in lengths):
            found = f"tensors of {lengths} rows" if lengths else f"a {type(value).__name__} without tensors"
            raise ValueError(
                f"Augment: {name_of(self.fn)} returned as {name} {found}, expected tensors of {batch.size} rows, as many "
                f"as it was given"
            )
        return map_tensors(value, aligned)
