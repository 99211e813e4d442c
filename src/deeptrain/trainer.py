"""The trainer: the loop as an explicit state machine, and the verbs that drive it.

    until done:
        if something is pending:                  # left by the last commit, in a fixed order
            deliver it                            # a handler; a validation's batch; a scheduled call; a checkpoint
        else:
            fetch     the batch at the cursor     # repeatable, moves nothing
            compute   forward, loss, backward     # may be aborted: buffers, streams, gradients go back
            commit    optimizer, counters,        # never interrupted
                      history, what is pending
        between any two of these: a safe point    # pause, save, look, change

Everything that decides what comes next is part of the state, so a trainer that loads a state goes on exactly
where the one that saved it stood, even between two handlers of one event or in the middle of a validation.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from deeptrain.callbacks.base import Event
from deeptrain.callbacks.display import Display
from deeptrain.callbacks.handlers import Handlers
from deeptrain.checkpoint.settings import Checkpoints
from deeptrain.control.change import steer_edits
from deeptrain.control.interrupt import Interrupts, end_by_signal_if_uncaught
from deeptrain.control.verbs import SteeringVerbs
from deeptrain.data.checks import whole
from deeptrain.delivery import Delivery
from deeptrain.evaluation.judging import Judging
from deeptrain.evaluation.verbs import JudgingVerbs
from deeptrain.integrations.torch_loader import as_feed
from deeptrain.introspect.info import Info
from deeptrain.introspect.verbs import LookingVerbs
from deeptrain.loggers.feeding import Loggers
from deeptrain.parts import asked_for, begin_at_the_beginning, dues, refuse_misfits
from deeptrain.preferences import UNSET, Unset
from deeptrain.run.checkpointing import NEVER
from deeptrain.run.exchanging import ReplacingVerbs
from deeptrain.run.record import plain
from deeptrain.run.run import Run
from deeptrain.run.timetravel import TimeVerbs
from deeptrain.run.verbs import SavingVerbs
from deeptrain.state.cadence import BATCH_END, EPOCH_END, PIECE, WITHOUT_UPDATE, At
from deeptrain.state.history import History
from deeptrain.state.progress import Phase, Progress, Task
from deeptrain.state.randomness import Streams
from deeptrain.step.base import Applied, Outcome, Step, figure, figures_of
from deeptrain.step.function import FunctionStep
from deeptrain.step.rollback import Rollback
from deeptrain.step.row_weights import CountsLabels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike

    from torch.utils.data import DataLoader

    from deeptrain.callbacks.base import Callback
    from deeptrain.data.batch import Batch
    from deeptrain.data.loader import BatchLoader
    from deeptrain.evaluation.validation import Validation
    from deeptrain.loggers.base import Logger
    from deeptrain.run.travel import Travel
    from deeptrain.step.own import OwnStep

# What a commit raises, by what it brought to completion.
_ENDS: dict[tuple[str, ...], tuple[str, ...]] = {
    PIECE: ("train_iter_end",),
    BATCH_END: ("train_iter_end", "train_batch_end"),
    EPOCH_END: ("train_iter_end", "train_batch_end", "train_epoch_end"),
}
_ENDS |= {WITHOUT_UPDATE[moved]: names for moved, names in _ENDS.items()}
ONE, NOTHING = Applied(), Applied(updates=0)


class Trainer(SteeringVerbs, JudgingVerbs, ReplacingVerbs, TimeVerbs, SavingVerbs, LookingVerbs):
    """Trains a step on data, and can be stopped, looked at, saved and continued at any moment.

    Args:
        step: How the model learns from a batch: a `SupervisedStep`, an `OwnStep`, anything on the `Step`
            protocol, or a function `batch -> loss | dict` that does a whole iteration.
        train: The training data: a `BatchLoader`, or a torch `DataLoader` over a map-style dataset.
        validation: What to validate on, how and when.
        epochs: How many passes over the training data the whole run makes.
        name: The run's name. The same name again continues its unfinished run.
        config: Values of your own to keep with the run; part of what must match when it is continued.
        runs: The directory of runs, `dt.defaults.runs` where it is not given ("runs"); None writes nothing.
        resume: "auto" continues the newest unfinished run of this name, "new" starts another one. Where the
            script has changed since, "keep" goes on with the run's values and "take" with the script's. The
            path of a run or a checkpoint starts a new run from there.
        checkpoints: When to save, and how many to keep.
        callbacks: Instances of `Callback`, called in this order; also dicts of functions by event, such as
            {"train:epoch": fn}.
        loggers: Where else the run's figures go: a `CSVLogger`, a `TensorBoardLogger`, a `Logger` of your own. No part of the
            state: they may be others whenever the run goes on.
        verbosity: 0 prints nothing, 1 epochs and a live line, 2 also each batch with its sets; or a `Display`.
            `dt.defaults.verbosity` where it is not given (1).

    Raises:
        ValueError, TypeError: Something does not fit together; the message names it. Nothing was trained.
        FingerprintMismatch: The script is not the one that the run was started with.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> step = SupervisedStep(model, loss=torch.nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1))
        >>> train = BatchLoader(Arrays(torch.rand(8, 2), torch.rand(8, 1)), batch_size=4)
        >>> trainer = Trainer(step, train, epochs=3, runs=None, verbosity=0)
        >>> trainer.fit(until=At(epoch=1))
        >>> trainer.fit()
    """

    def __init__(
        self,
        step: Step | OwnStep | Callable[[Batch], Any],
        train: BatchLoader | DataLoader[Any],
        *,
        validation: Validation | None = None,
        epochs: int = 1,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        runs: str | PathLike[str] | Unset | None = UNSET,
        resume: str | PathLike[str] = "auto",
        checkpoints: Checkpoints | None = None,
        callbacks: Sequence[Callback | Mapping[Any, Any]] = (),
        loggers: Sequence[Logger] = (),
        verbosity: int | Display | None = None,
    ) -> None:
        refuse_misfits(train, validation, epochs, config, checkpoints)
        self.seed = torch.initial_seed()
        self.learner: Step = step if isinstance(step, Step) else FunctionStep(step)
        self.streams = Streams(self.learner.device)
        self.train = as_feed(train, self.seed)
        self.judging = Judging(validation, self.seed)
        self.judging.warn_of_shared_rows(self.train)
        begin_at_the_beginning(self.train)
        self.epochs = epochs
        self.config = dict(config or {})
        self.checkpoints = checkpoints or Checkpoints()
        self.judging.refuse_unknown_best(self.checkpoints.best)
        self.judging.refuse_unknown_figure(getattr(self.learner, "scheduler_on", None))
        self.handlers = Handlers(callbacks, asked_for(self.learner, validation))
        self.display = verbosity if isinstance(verbosity, Display) else Display(verbosity)
        self.loggers = Loggers(loggers)
        self.progress = Progress()
        self.history = History()

        self._loop_goal: int | None = None
        self.interrupts = Interrupts()
        super().__init__()
        self._started = self._committing = False
        self._wake_at = 0.0
        self.delivery = Delivery(self)
        self.delivery.put(("train_begin",), Event("train_begin"))
        self.replaced: list[dict[str, Any]] = []
        self.listen()

        if isinstance(self.learner, CountsLabels):
            self.learner.count_labels(self.train)
        self.judging.prepare_weights(self.learner)
        self.learner.prepare(self.totals())
        self.learner.bind(self._begin_commit)
        self.rollback = Rollback(self.streams, self.learner.modules())
        self.settings: dict[str, Any] = plain(self.settings_of_parts())
        self.run = Run.open(self, runs=runs, name=name, resume=resume)
        self.run.restore(self, str(resume))
        self.steering.resume(self)
        self.commands.recover(self)
        self.watcher.rest(self)
        steer_edits(self)

    def listen(self) -> None:
        """Note what follows from commits, and whether anybody is told of each."""
        judged = self.judging.validation
        self._dues = dues(None if judged is None else judged.every, self.checkpoints.every)
        self._heard = bool(self.handlers.calls["train_iter_end"] or self.handlers.calls["train_batch_end"])

    # ------------------------------------------------------------------ verbs that run

    def fit(self, until: At | None = None) -> None:
        """Train to the end of the last epoch, or to a point counted from the run's beginning.

        Returns only when that is reached; every other way to stop is an exception.

        Raises:
            Interrupted: A signal or `pause()` stopped it. The state is whole: call `fit()` again.
            TornStateError: An exception tore the state earlier; load a checkpoint first.
        """
        if until is not None and not isinstance(until, At):
            raise TypeError(f"fit(until={until!r}): expected a point of the run, such as dt.At(epoch=2)")
        counter, goal = ("epochs", self.epochs + 1) if until is None else until.target
        if not self.steering.has_been_at(self, counter, self.epochs if until is None else goal):
            self._go(counter, goal)

    def step(self, iterations: int = 1) -> None:
        """Make that many train iterations, with everything that follows from them."""
        self.fit(until=At(iteration=self.progress.train.iterations + whole("step", iterations)))

    def __iter__(self) -> Iterator[Event]:
        """Drive the run yourself: yields each train iteration after its events are delivered.

        Between two of them the trainer rests: signals go where they went before, and every verb may be used.
        """
        try:
            while self.progress.phase is not Phase.DONE:
                self._loop_goal = self.progress.train.iterations + 1
                self._go("iterations", self._loop_goal, stop=False)
                if self.progress.train.iterations >= self._loop_goal and self.delivery.newest is not None:
                    yield self.delivery.event()
        finally:
            self._loop_goal = None
            self._stop()

    # ------------------------------------------------------------------ the loop

    def _go(self, counter: str, goal: int, *, stop: bool = True) -> None:
        """Run until a counter has come to a count, or to the run's end."""
        try:
            self._run(counter, goal, stop=stop)
        finally:
            self.steering.settle(self)

    def _run(self, counter: str, goal: int, *, stop: bool) -> None:
        if self.run.appraisal is not None:
            raise self.run.appraisal.make(self)
        with self.interrupts:
            try:
                self._start()
                travel = self.run.travel
                while self.progress.phase is not Phase.DONE:
                    is_there = getattr(self.progress.train, counter) >= goal
                    if is_there and self._rests_at(counter, goal, stop=stop):
                        break
                    if travel is not None and self._rests_at(travel.counter, travel.count, stop=True):
                        break
                    self._advance()
                    goal = goal if stop or self._loop_goal is None else self._loop_goal
                if travel is not None:
                    self._end_travel(travel)
                if self.progress.phase is not Phase.DONE and self.interrupts.requested is not None:
                    self._pause_as_asked()
            except BaseException as error:
                self.run.save_on_the_way_out(self, error)
                raise
            finally:
                if stop:
                    self._stop()

    def _end_travel(self, travel: Travel) -> None:
        """End the script where it was only to come to a point of another run again; see `deeptrain replay`."""
        if getattr(self.progress.train, travel.counter) >= travel.count:
            raise self.run.arrive(self)

    def _start(self) -> None:
        """What is checked and told before the first transition; nothing where the trainer was started already."""
        self.refuse_torn()
        if self._started:
            return
        self.refuse_unclaimed()
        end_by_signal_if_uncaught()
        self.run.begin(self)
        self._wake_at = 0.0
        self.watcher.wake()
        self.commands.begin(self)
        self._started = True
        self.loggers.tell(self)
        self.delivery.tell("start")

    def _stop(self) -> None:
        """What is told after the last transition."""
        if self._started:
            self._started = False
            self.run.rest()
            self.loggers.tell(self)
            self.display.on_stop(self)
            self.delivery.tell("stop")
            self.commands.look(self, NEVER)  # nobody who asked before is left waiting
            self.watcher.rest(self)

    def _rests_at(self, counter: str, goal: int, *, stop: bool) -> bool:
        """Whether to stop here. A loop's body counts to its iteration, so that a checkpoint waits until it is through."""
        done = self.progress.train
        if getattr(done, counter) < goal:
            return False
        if self.schedule.awaits_registration(self.progress.pending):
            return True
        if done.epochs >= self.epochs and stop:
            return False
        return all(task.kind == "checkpoint" and not stop for task in self.progress.pending)

    def _pause_as_asked(self) -> NoReturn:
        raise self.interrupts.exception(Info.of(self).line)

    def _advance(self) -> None:
        """Go from one safe point to the next."""
        if self.steering.waiting:
            self.steering.take(self)
        if self.interrupts.requested is not None:
            self._pause_as_asked()
        if self.progress.pending:
            self._deliver(self.progress.pending[0])
        elif self.progress.train.epochs < self.epochs:
            self._iterate()
        else:
            self._finish()

    def _iterate(self) -> None:
        """Fetch and compute, which can be undone; then commit."""
        self._committing = False
        self.rollback.capture()
        self._commit(*self.interrupts.abortably(self._compute, self._undo))

    def _compute(self) -> tuple[Batch, Outcome, dict[str, Any], bool]:
        batch = self.train.fetch()
        outcome = self.learner.compute(batch)
        if outcome.left_out:
            self.rollback.restore_buffers()
        if self.breaks.conditions:
            self.breaks.look_at_gradients(self)
        ends_batch = self.train.preprocess is None or self.train.ends_batch(outcome)
        return batch, outcome, figures_of(outcome), ends_batch

    def _begin_commit(self) -> None:
        """The step changes from here on what cannot be put back: it is not to be interrupted any more."""
        self.interrupts.abortable = False
        self._committing = True

    def _undo(self, error: BaseException) -> None:
        """Go back to before the computation, or say that there is no way back."""
        if self._committing:
            self.tear(f"the step of iteration {self.progress.train.iterations + 1}", error)
        else:
            try:
                self.learner.discard()
            finally:
                self.rollback.restore()

    def _commit(self, batch: Batch, outcome: Outcome, figures: dict[str, Any], ends_batch: bool) -> None:
        """Make an iteration count. An exception in here tears the state."""
        done = self.progress.train
        at = done.iterations
        moved: tuple[str, ...] = PIECE
        try:
            made, rest = self.learner.apply(), None
            epoch_ended = self.train.advance(whole=ends_batch)
            if ends_batch:
                moved = BATCH_END
                done.batches += self.train.passed
                for _ in range(self.train.passed):
                    self.learner.end_batch()
            if epoch_ended:
                moved = EPOCH_END
                done.epochs += 1
                rest = self.learner.end_epoch()
            done.iterations += 1
            if made is None and rest is None:
                done.updates += 1
            elif not self._count_updates((made or ONE, rest or NOTHING), figures):
                moved = WITHOUT_UPDATE[moved]
            self.history.add(done.iterations, figures, "train.")
            self._raise_train_events(batch, outcome, figures, moved)
        except BaseException as error:
            self.tear(f"the commit of iteration {at + 1}", error)
            raise
        self._committing = False
        self.run.journalling.on_iteration(self, batch, figures)
        now = monotonic()
        if now >= self._wake_at or epoch_ended:
            self._look_at_the_clock(now, epoch_ended=epoch_ended)
        if self.breaks.conditions and (met := self.breaks.met(self, figures)) is not None:
            self.commands.on_break(self, met)

    def _count_updates(self, applied: tuple[Applied, Applied], figures: dict[str, Any]) -> int:
        """Count the updates that a commit came to, and take its further figures; how many updates there were."""
        for made in applied:
            figures.update({name: figure(name, value) for name, value in made.figures.items()})
        updates = sum(made.updates for made in applied)
        self.progress.train.updates += updates
        return updates

    def _look_at_the_clock(self, now: float, *, epoch_ended: bool) -> None:
        """Do what goes by seconds: ask for a checkpoint, write the journal, print. None of it changes the training."""
        if now >= self.run.save_at and all(task.kind != "checkpoint" for task in self.progress.pending):
            self.progress.pending.append(Task("checkpoint"))
        self.run.look_for_saved()
        self.run.write_journal(now)
        self.commands.look(self, now)
        self.loggers.look(self, now)
        self.display.on_iteration(self, now, epoch_ended=epoch_ended)
        self._wake_at = min(self.run.due_at, self.display.due_at, self.loggers.due_at)

    def tear(self, what: str, error: BaseException) -> None:
        """Note that an exception came out of the middle of a commit: the state is not whole."""
        self._committing = False
        self.progress.torn = f"{what} was cut short by {type(error).__name__}: {error}"

    def _raise_train_events(
        self, batch: Batch, outcome: Outcome, figures: dict[str, Any], moved: tuple[str, ...]
    ) -> None:
        """Put on the list what follows from a commit, in the one order that there is."""
        done, names = self.progress.train, _ENDS[moved]
        passed = self.train.passed
        follow = [kind for kind, due in self._dues if due(done, moved, passed)] if self._dues else ()
        self.delivery.newest = (batch, outcome, figures, (*names, *follow))
        if self._heard or moved[-1] == "epochs":
            self.delivery.put(names, self.delivery.event())
        if follow or self.schedule.entries:
            tasks = [Task(kind) for kind in follow]
            self.progress.pending.extend(self.schedule.put_between(tasks, done, moved, passed))

    def _deliver(self, task: Task) -> None:
        if task.kind == "handler":
            self.delivery.handle(task)
        elif task.kind == "validation":
            self.judging.advance(self)
        elif task.kind == "scheduled":
            self.schedule.deliver(task)
        elif task.kind == "finish":
            self._finish_now(task)
        else:
            self._save_pending(task)

    def _save_pending(self, task: Task) -> None:
        """Save with the task taken off the list, so that what is saved goes on behind it."""
        self.progress.pending.popleft()
        try:
            self.run.save(self, wait=False)
        except BaseException:
            self.progress.pending.appendleft(task)
            raise

    def _finish_now(self, task: Task) -> None:
        """The run was asked to end here. With more epochs than it then had before it, it may be continued."""
        self.progress.pending.popleft()
        while task in self.progress.pending:  # it was asked for more than once
            self.progress.pending.remove(task)
        self.progress.stopped_short_of = self.epochs
        try:
            self._finish()
        except BaseException:
            self.progress.pending.appendleft(task)
            self.progress.stopped_short_of = None
            raise

    def _finish(self) -> None:
        """The last transition: the run is done."""
        self.progress.phase = Phase.DONE
        try:
            self.run.save(self)
        except BaseException:
            self.progress.phase = Phase.TRAIN
            raise
        self.run.on_done(self)
        self.display.on_done(self)

    # ------------------------------------------------------------------ the loop as part of a rewind or a trial

    def retrace(self, counter: str, count: int, limit: float = float("inf"), *, finish: bool = True) -> None:
        """Go on to a count, to where all that follows from it is through; part of a rewind or a trial.

        Args:
            counter: Of `progress.train`.
            count: To which count.
            limit: Where it is to have come at the latest, in iterations.
            finish: Whether the run is done where its last epoch is; else it rests before that.

        Raises:
            ValueError: It does not come before so many iterations.
        """
        while self.progress.phase is not Phase.DONE and not self._rests_at(counter, count, stop=True):
            if not finish and not self.progress.pending and self.progress.train.epochs >= self.epochs:
                return
            if self.progress.train.iterations > limit:
                raise ValueError(
                    f"rewind: {counter}={count} lies behind iteration {limit}, where this line of history was left; the "
                    "checkpoints of the branch that it lies on are gone"
                )
            self._advance()

    def went_back(self) -> None:
        """The run is at an earlier point: a loop over its iterations goes on with the next one from there."""
        if self._loop_goal is not None:
            self._loop_goal = self.progress.train.iterations + 1
