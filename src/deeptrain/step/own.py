"""`OwnStep`: a class of one's own as step, which says in `compute` what an iteration is and gets the rest.

The rest is a `FunctionStep`'s, over what the instance has as attributes: what is saved, put back and shielded, and when
the commit begins.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from torch import nn

from deeptrain.step.attributes import changed, plain_values, remembered
from deeptrain.step.discovery import parts_of
from deeptrain.step.function import FunctionStep, outcome_of
from deeptrain.step.parts import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch
    from torch.optim import Optimizer

    from deeptrain.data.batch import Batch
    from deeptrain.step.base import Outcome, Totals


class OwnStep:
    """Base class of a step that does with a batch whatever its `compute` says: several optimizers, a GAN, self-supervision.

    Make modules, optimizers, schedulers and whatever else has `state_dict` and `load_state_dict` attributes of the instance
    (also in lists, tuples and dicts of it, or in plain objects), all of them before the trainer is made. They join the state
    tree under their names: `generator`, `optimizers.d`. Nothing else does, so that a plain attribute which has changed since
    then (a counter, a list of tensors) is refused where the state is taken. One whose name begins with an underscore is never
    looked at; it must not decide anything about the training.

    `compute` runs in two parts. Up to the first step of an optimizer it may be aborted and repeated: gradients, buffers,
    random streams, learning rates and the states of all parts but modules and optimizers are then put back. From there on
    to its end it is the commit, which nothing interrupts and an exception tears. So parameters are changed from there on.

    What else may be overridden: `evaluate` and `loss_over`, for a validation; `end_batch`, `end_epoch` and `end_validation`,
    which are parts of commits, for schedulers that go by them; `prepare`, which is told the length of the run. See `Step`.
    No base class but this one needs its `__init__` called.

    Attributes:
        shielded: True in a subclass makes all of `compute` the commit. Then nothing is copied to be put back, which costs
            as much as the states of the parts are large: a buffer of a million transitions.
        save_skip, load_skip: As of `SupervisedStep`.

    Raises:
        ValueError: Nothing with a state was found, an optimizer's parameters belong to no module that was found, or an
            attribute with a state has a name that the state tree uses itself.

    Example:
        >>> class Denoise(OwnStep):
        ...     def __init__(self, model, noise=0.1):
        ...         self.model, self.noise = model, noise
        ...         self.optimizer = torch.optim.Adam(model.parameters())
        ...
        ...     def compute(self, batch):
        ...         noisy = batch.inputs + self.noise * torch.randn_like(batch.inputs)
        ...         loss = (self.model(noisy) - batch.inputs).square().mean()
        ...         loss.backward()
        ...         self.optimizer.step()
        ...         self.optimizer.zero_grad()
        ...         return loss
        >>> step = Denoise(nn.Linear(4, 4))
        >>> sorted(step.parts)
        ['model', 'optimizer']
        >>> trainer = Trainer(step, BatchLoader(Arrays(torch.rand(8, 4)), batch_size=4), runs=None, verbosity=0)
        >>> trainer.fit()
    """

    shielded: bool = False
    save_skip: Sequence[str] = ()
    load_skip: Sequence[str] = ()

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if nn.Module in cls.__mro__:
            raise TypeError(
                f"{cls.__name__} is an OwnStep and a Module, each of which has a state_dict of its own: keep the module as an "
                "attribute of the step"
            )
        for name, as_whole in (("compute", _as_iteration), ("evaluate", _as_evaluation)):
            written = getattr(cls, name)
            if written is not getattr(OwnStep, name) and not hasattr(written, "__wrapped__"):
                setattr(cls, name, as_whole(written))

    def compute(self, batch: Batch) -> Any:  # noqa: ARG002 - for overriding
        """Do one iteration: what a hand-written loop does with a batch, up to the steps of the optimizers.

        A preprocessor may feed a batch several times: `batch.iteration` then counts. The next batch is due where it says so.

        Args:
            batch: The batch, or the piece of it, on whatever device the loader gives.

        Returns:
            The loss, a tensor of shape () or a number; or figures by name, of which "loss" is the loss; or an `Outcome`.
        """
        raise TypeError(
            f"the step {type(self).__name__} has no compute(batch), which says what is done with a batch: write one"
        )

    @functools.cached_property
    def _whole(self) -> FunctionStep:
        """What does all but the user's part; made when the step is first asked for anything."""
        self._made = remembered(self._attributes())
        if type(self).compute is OwnStep.compute:
            self.compute(None)  # type: ignore[arg-type]  # says what is missing
        written = types.MethodType(type(self).compute.__wrapped__, self)  # type: ignore[attr-defined]
        return FunctionStep(written, self._found(), shielded=self.shielded)

    def _attributes(self) -> dict[str, Any]:
        own = {"_whole", "_made", "_device", "save_skip", "load_skip", "shielded"}
        return {name: value for name, value in vars(self).items() if name not in own}

    def _found(self) -> dict[str, Any]:
        return parts_of(self._attributes(), *_methods(type(self)), leave=self)

    @property
    def parts(self) -> dict[str, Any]:
        """What has a state, by its path in the state tree."""
        return self._whole.parts

    @property
    def device(self) -> torch.device:
        """Where it computes: where its first parameter is, unless it is set."""
        return self.__dict__.get("_device") or self._whole.device

    @device.setter
    def device(self, device: torch.device) -> None:
        self.__dict__["_device"] = device

    def prepare(self, totals: Totals) -> None:
        """Nothing is built; override it for what needs the length of the run. See `Step`."""

    def bind(self, begin_commit: Callable[[], None]) -> None:
        """Take what is called when an optimizer steps first. See `Step`."""
        self._whole.bind(begin_commit)

    def discard(self) -> None:
        """Put back what `compute` may have changed before it stepped an optimizer. See `Step`."""
        self._whole.discard()

    def apply(self) -> None:
        """`compute` did it. See `Step`."""
        self._whole.apply()

    def end_batch(self) -> None:
        """Reset the state that modules carry from piece to piece. See `Step`."""
        self._whole.end_batch()

    def end_epoch(self) -> Any:
        """Nothing; for overriding. See `Step`."""

    def end_validation(self, key: float | None, figures: Mapping[str, float]) -> None:
        """Nothing; for overriding. See `Step`."""

    def evaluate(self, batch: Batch) -> Any:  # noqa: ARG002 - for overriding
        """For a validation: give predictions, and perhaps a loss, for one batch.

        What is written here runs in evaluation mode and without gradients.

        Returns:
            `dt.Outcome(loss, predictions)`, either of them perhaps None. The predictions of a whole pass are joined for the
            validation's metrics, and for `loss_over`. Where that gives None, the pass has the mean of these losses by rows.

        Raises:
            TypeError: It is not overridden.
        """
        raise TypeError(
            f"the step {type(self).__name__} does not say how it is evaluated: write evaluate(batch), which gives "
            "dt.Outcome(loss, predictions), and loss_over(predictions, targets) if there is a loss over a whole pass; or leave "
            "validation out"
        )

    def loss_over(self, predictions: Any, targets: Any) -> float | None:
        """None, for the mean of the batches' losses; override it where a loss over a whole pass is another. See `Step`."""

    def modules(self) -> Iterable[nn.Module]:
        """The modules among the parts. See `Step`."""
        return self._whole.modules()

    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers among the parts. See `Step`."""
        return self._whole.optimizers()

    def settings(self) -> dict[str, Any]:
        """The class, its parts, and its attributes that are plain values. See `Step`."""
        settings = self._whole.settings()
        del settings["function"]
        return {"class": type(self).__qualname__, **settings, "values": plain_values(self._made)}

    def state_dict(self) -> dict[str, Any]:
        """Every part's state under its name. See `Step`.

        Raises:
            ValueError: Attributes were replaced or changed that are no part of the state.
        """
        self._refuse_changed()
        return self._whole.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. See `Step`."""
        self._whole.load_state_dict(state)

    def _refuse_changed(self) -> None:
        known, found = self._whole.parts, parts_of(self._attributes(), leave=self)
        others = [name for name, part in found.items() if all(part is not each for each in known.values())]
        if others:
            raise ValueError(
                f"the step {type(self).__name__} was given {', '.join(others)} after it was taken by a trainer: found as parts "
                f"then: {sorted(known)}; make all parts in __init__, and load into them"
            )
        if names := changed(self._made, self._attributes()):
            raise ValueError(
                f"{', '.join(f'{type(self).__name__}.{name}' for name in names)} changed in training and is no part of the state: "
                "a run that is continued would not have it. Keep it in a buffer of a module, or in an object with state_dict "
                "and load_state_dict; or, where nothing depends on it, give it a name that begins with an underscore"
            )


def _as_iteration(written: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch], Any]:
    @functools.wraps(written)
    def compute(self: OwnStep, batch: Batch) -> Any:
        if type(self).compute is not compute:
            return written(self, batch)  # called as super().compute
        return self._whole.compute(batch)

    return compute


def _as_evaluation(written: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch], Any]:
    @functools.wraps(written)
    def evaluate(self: OwnStep, batch: Batch) -> Outcome | Any:
        if type(self).evaluate is not evaluate:
            return written(self, batch)
        with evaluating(self.modules()):
            return outcome_of(written(self, batch))

    return evaluate


def _methods(made: type) -> Iterator[types.FunctionType]:
    """The functions that a user's classes define, whose globals are parts too."""
    for each in made.__mro__[: made.__mro__.index(OwnStep)]:
        for value in vars(each).values():
            function = getattr(value, "__wrapped__", value)
            if isinstance(function, types.FunctionType):
                yield function
