"""Training processes that are steered by another one, with crashes planted in between, and runs that are left alone."""

import os
import shutil

import deeptrain as dt
from deeptrain.control import changes, mailbox
from deeptrain.control.change import Change
from deeptrain.control.journal import read_journal
from deeptrain.control.recorded import place_in
from deeptrain.run.asking import _Letter
from tests.support import fresh, recipes

DECAY = "optimizer.param_groups.*.weight_decay"
FOR_EVER = 10**5  # epochs: until it is asked to stop


class Tell(dt.Callback):
    """Says that the first iteration of this process was made, and with `wait` goes on only when it is told to.

    With `always` it says so of each.
    """

    def __init__(self, pipe, wait=False, always=False):
        self._pipe, self._wait, self._always = pipe, wait, always

    def on_train_iter_end(self, trainer, event):
        pipe = self._pipe
        if pipe is not None:
            self._pipe = pipe if self._always else None
            pipe.send(event.iteration)
            if self._wait:
                pipe.recv()


def make(runs, pipe=None, *, wait=False, always=False, every=100, epochs=FOR_EVER, more=(), **recipe):
    callbacks = [*recipes.callbacks(), Tell(pipe, wait, always), *more]
    checkpoints = dt.Checkpoints(every=dt.Every(batches=every))
    return recipes.trainer(
        "multistep",
        runs=runs,
        name="r",
        epochs=epochs,
        callbacks=callbacks,
        checkpoints=checkpoints,
        **recipe,
    )


def _die(mark):
    """End the process here, once: a file says that it did."""
    if not mark.exists():
        mark.touch()
        os._exit(9)


def plant(point, mark):
    """Have the process die at a point on a change's way."""
    from deeptrain.run.run import Run

    places = {
        "before its line": (Run, "journal", lambda _, kind, **__: kind == "intervention"),
        "before it is made": (changes, "_put", lambda *_: True),
        "before its answer": (mailbox.Mailbox, "answer", lambda *_, **__: True),
        "before it is removed": (mailbox.Mailbox, "remove", lambda *_, **__: True),
    }
    owner, name, here = places[point]
    real = getattr(owner, name)

    def planted(*args, **kwargs):
        if here(*args, **kwargs):
            _die(mark)
        return real(*args, **kwargs)

    setattr(owner, name, planted)


def train(runs, pipe=None, *, point=None, mark=None, **recipe):
    if point is not None:
        plant(point, mark)
    t = make(runs, pipe, **recipe)
    t.fit()
    t.close()
    return recipes.summary(t)


class Training:
    """A process that trains, with a pipe to it, once it has made an iteration."""

    def __init__(self, runs, **more):
        self.run = runs / "M1__r"
        self.pipe, theirs = fresh.context.Pipe()
        self.process, self._result = fresh.start(train, runs, theirs, **more)
        theirs.close()
        try:
            self.pipe.recv()
        except EOFError as error:
            raise AssertionError(self._result.recv()) from error

    def result(self):
        kind, value = self._result.recv()
        self.process.join()
        assert kind == "ok", value
        return value

    def died(self):
        self.process.join()
        return self.process.exitcode == 9


def interventions(run):
    """Those that were made, in their order."""
    entries = list(read_journal(run / "journal.jsonl"))
    refused = {entry.get("number", -1) for entry in entries if entry["kind"] == "rejected"}
    made = [entry for entry in entries if entry["kind"] == "intervention" and entry["origin"] != "callback"]
    return [entry for entry in made if entry["number"] not in refused]


def left_alone(runs, entries, **recipe):
    """A run in which a person makes the same changes at the same places, and that is not interrupted."""
    shutil.rmtree(runs, ignore_errors=True)
    t, left = make(runs, **recipe), list(entries)
    with t.interrupts:
        t._start()
        while t.progress.phase is not dt.Phase.DONE:
            while left and left[0]["place"] == place_in(t):
                entry = left.pop(0)
                change = Change(entry["verb"], entry["path"], entry["value"])
                t.steering.make(t, change, "prompt")
            t._advance()
    assert not left, f"the run did not come through {left[0]}"
    t.close()
    return recipes.summary(t)


class Posts(dt.Callback):
    """Puts commands into the run's own mailbox, once in a run's life, and waits for them as another process would.

    They are taken right behind this handler, so that each run has them at the same place.
    """

    def __init__(self, mark, contents, at=6):
        self._mark, self._contents, self._at, self.letters = mark, contents, at, []

    def on_train_batch_end(self, trainer, event):
        if event.iteration == self._at and not self._mark.exists():
            self._mark.touch()
            box = trainer.run.mailbox.path
            self.letters = [_Letter(box, mailbox.encode(content)) for content in self._contents]
            trainer.steering.waiting = True
