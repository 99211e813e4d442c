"""`Commands`: what other processes ask of a run, carried out at safe points, answered, and in the record.

A command is taken out of the mailbox only where it can be carried out: at a safe point, or while the trainer rests at a
prompt. What decides over the training (set, validate, stop) is then written to the journal and brought to the disk, made,
and answered; a process that dies in between leaves a command that was taken, and the next one finds in the journal
whether it is to be made again, and answers. Holding a run and its breakpoints are no part of the state: they end with the process.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from deeptrain.control.change import Change
from deeptrain.control.journal import read_backwards
from deeptrain.control.orders import Order, parse_order
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deeptrain.control.breaks import Met
    from deeptrain.control.mailbox import Mailbox, Sent
    from deeptrain.trainer import Trainer

EVERY = 0.1  # seconds between two looks into the mailbox
HELD = 0.02  # the same, while the run is held
_CHANGES = {"set": "set", "validate": "validation", "stop": "stop"}  # what they are called among the changes
AGAIN = "the iterations since the last checkpoint are computed again after a crash, up to iteration {}: ask when that is through"


class Commands:
    """The commands of other processes to one trainer, and whether they hold it.

    Attributes:
        held_from: The count of iterations from which on the run is held at its safe points; None where it is not.
    """

    def __init__(self) -> None:
        self.held_from: int | None = None
        self._delivered = False  # hold only once nothing is pending
        self._look_at = 0.0
        self._why = ""
        self._owed: list[
            tuple[Mailbox, str, int]
        ] = []  # commands whose answer comes when the run is held again
        self._said: set[str] = set()

    # ------------------------------------------------------------------ when

    def begin(self, trainer: Trainer) -> None:
        """The trainer starts to run: look at once, and hold nothing that it was held for before."""
        self.held_from, self._look_at = None, 0.0
        self.look(trainer, 0.0)

    def look(self, trainer: Trainer, now: float) -> None:
        """See whether something lies in the mailbox; called by the loop's clock."""
        mailbox = trainer.run.mailbox
        if mailbox is not None and now >= self._look_at:
            self._look_at = now + EVERY
            if mailbox.waiting():
                trainer.steering.waiting = True

    def take(self, trainer: Trainer) -> None:
        """Carry out what can be; called at a safe point, or at rest by whoever holds `trainer.interrupts.resting`."""
        mailbox = trainer.run.mailbox
        if mailbox is None or not mailbox.waiting():
            return
        sent, refused = mailbox.read()
        for name, why in refused:
            trainer.run.note("refused", at=trainer.progress.train.iterations, name=name, why=why)
            self._say_once(trainer, f"{mailbox.path}: {name} is not carried out: {why}")
        for command in sent:
            try:
                self._carry_out(trainer, mailbox, command)
            except (
                OSError
            ) as error:  # of the mailbox: whoever asked is left waiting, and the training goes on
                self._say_once(trainer, f"{mailbox.path}: {error}")

    def _say_once(self, trainer: Trainer, line: str) -> None:
        if line not in self._said and len(self._said) < 1000:  # noqa: PLR2004 - so that nobody fills the memory
            self._said.add(line)
            trainer.display.say(line)

    # ------------------------------------------------------------------ carrying out

    def _carry_out(self, trainer: Trainer, mailbox: Mailbox, sent: Sent) -> None:
        order: Order | None = None
        try:
            order = parse_order(sent.content)
            later = self._why_later(trainer, order)
        except ValueError as error:
            later = str(error)
        if order is not None and later is not None and self._goes_on(trainer):
            return  # it stays where it is until then
        if order is not None and order.verb == "checkpoint" and trainer.run.checkpoints is not None:
            trainer.run.checkpoints.settle()  # what went wrong with an earlier one is not this asker's
        line = trainer.run.journal_line
        if not mailbox.take(sent.id, line):
            return
        try:
            if order is None or later is not None:
                raise ValueError(later)  # noqa: TRY301 - it is answered as every other reason
            text = self._do(trainer, order, sent.id)
        except Exception as error:  # noqa: BLE001 - it is the asker's, whatever it is
            self._reject(trainer, mailbox, sent, line, error)
        else:
            if order.verb == "step":
                self._owed.append((mailbox, sent.id, line))
                return
            at = trainer.progress.train.iterations
            self._settle(mailbox, sent.id, line, applied=True, text=text, at=at)

    def _goes_on(self, trainer: Trainer) -> bool:
        """Whether the trainer comes to another safe point by itself."""
        return trainer.interrupts.running and not self._holds(trainer)

    def _why_later(self, trainer: Trainer, order: Order) -> str | None:
        """Why a command cannot be carried out here, though it can be when the run has gone on; None where it can."""
        if order.verb not in _CHANGES:
            return None
        if trainer.progress.phase is Phase.VALIDATE:
            return "a validation is under way, which would be of two states: ask when it is through"
        if trainer.steering.repeats(trainer):
            return AGAIN.format(trainer.run.replay_until)
        return None

    def _do(self, trainer: Trainer, order: Order, identity: str) -> str:
        """Write an order down and carry it out; what became of it, in words."""
        if order.verb in _CHANGES:
            change = Change(_CHANGES[order.verb], order.text, order.value)
            trainer.steering.make(trainer, change, "process", id=identity)
            if order.verb == "stop" and self.held_from is not None:
                self._let_go(trainer)  # a run that is held comes to no end
            paused = ", and the run is paused: unpause it, or step" if self.held_from is not None else ""
            return "" if order.verb == "set" else f"it follows once what is pending is through{paused}"
        act, text = self._acts(trainer, order)
        entry = {"verb": order.verb, "text": order.text, "value": order.value, "id": identity}
        trainer.run.journal("command", durable=True, at=trainer.progress.train.iterations, **entry)
        act()
        return text

    def _acts(self, trainer: Trainer, order: Order) -> tuple[Callable[[], object], str]:
        """What carries out an order that changes nothing of the state, and what is said then.

        Raises:
            ValueError: It cannot be carried out here.
        """
        if order.verb == "checkpoint":
            trainer.refuse_torn()
            return lambda: trainer.run.save(
                trainer, tag=order.text or None
            ), "it is on the disk, and verified"
        if order.verb == "break":
            return lambda: trainer.breaks.add(
                trainer, order.text, outside=True
            ), "the run is held where it holds"
        if order.verb == "unbreak":
            return lambda: trainer.breaks.remove(order.text or None), ""
        self._require_running(trainer, order)
        if order.verb == "pause":
            return lambda: self._hold_from(trainer, "another process asked for it"), "the run is held"
        if order.verb == "step":
            why = "the iterations that another process asked for were made"
            return lambda: self._hold_from(trainer, why, order.value), ""
        return lambda: self._let_go(trainer), "the run goes on"

    def _require_running(self, trainer: Trainer, order: Order) -> None:
        if not trainer.interrupts.running:
            raise ValueError(
                "the trainer rests between two fit(), and nothing runs that could be held or go on"
            )
        if order.verb == "pause" and self._holds(trainer):
            raise ValueError("the run is paused already")
        if order.verb != "pause" and self.held_from is None:
            raise ValueError("the run is not paused")

    # ------------------------------------------------------------------ answering

    def _reject(self, trainer: Trainer, mailbox: Mailbox, sent: Sent, line: int, error: Exception) -> None:
        why = str(error) or type(error).__name__
        at, verb = trainer.progress.train.iterations, str(sent.content.get("verb"))[:40]
        trainer.run.note("rejected", at=at, id=sent.id, verb=verb, why=why[:1000])
        self._settle(mailbox, sent.id, line, applied=False, text=why, at=at)

    @staticmethod
    def _settle(
        mailbox: Mailbox, identity: str, line: int, *, applied: bool, text: str, at: int | None
    ) -> None:
        if mailbox.is_waited_for(identity, line):
            mailbox.answer(identity, applied=applied, text=text, at=at)
        mailbox.remove(identity, line)

    def pay(self, trainer: Trainer, text: str) -> None:
        """Answer those who asked for some iterations: the run is held again, or rests."""
        owed, self._owed = self._owed, []
        for mailbox, identity, line in owed:
            with suppress(OSError):
                at = trainer.progress.train.iterations
                self._settle(mailbox, identity, line, applied=True, text=text, at=at)

    # ------------------------------------------------------------------ after a crash

    def recover(self, trainer: Trainer) -> None:
        """After a run was found: answer what the process that died had taken and not answered.

        What the journal does not have was not made: it is put back, should somebody still wait for it. What the journal has
        and the state has not is made again at its place, and answered then.
        """
        mailbox = trainer.run.mailbox
        if mailbox is None:
            return
        for identity, line in mailbox.taken():
            entries = _lines_of(mailbox.path.parent / "journal.jsonl", identity, line)
            if not entries:
                mailbox.put_back(identity, line)
                continue
            refused = next((entry for entry in entries if entry.get("kind") == "rejected"), None)
            if refused is None and trainer.steering.will_repeat(identity):
                continue
            at, why = (
                int(entries[0].get("at", 0)),
                "" if refused is None else str(refused.get("why", "it failed")),
            )
            self._settle(mailbox, identity, line, applied=refused is None, text=why, at=at)

    @staticmethod
    def repeated(trainer: Trainer, entry: dict[str, Any], problem: str | None = None) -> None:
        """A change of the journal was made again, or could not be: whoever asked for it may still wait."""
        mailbox = trainer.run.mailbox
        if mailbox is None or "id" not in entry:
            return
        text = problem or "and again after the process that trained had died"
        with suppress(OSError):
            for identity, line in mailbox.taken():
                if identity == entry["id"]:
                    Commands._settle(
                        mailbox, identity, line, applied=problem is None, text=text, at=int(entry["at"])
                    )

    # ------------------------------------------------------------------ holding

    @property
    def active(self) -> bool:
        """Whether the safe points are to be looked at."""
        return self.held_from is not None

    def on_break(self, trainer: Trainer, met: Met) -> None:
        """A breakpoint was met: hold the run for who set it from outside, else have `fit()` raise."""
        if met.outside:
            self._hold_from(trainer, met.words)
        else:
            trainer.interrupts.request(met.words)

    def _hold_from(self, trainer: Trainer, why: str, more: int = 0) -> None:
        self.held_from, self._delivered = trainer.progress.train.iterations + more, more > 0
        self._why = why
        trainer.steering.waiting = True

    def _let_go(self, trainer: Trainer) -> None:
        self.held_from = None
        self.pay(trainer, "the run goes on before they were all made")
        trainer.run.note("unpaused", at=trainer.progress.train.iterations)

    def _holds(self, trainer: Trainer) -> bool:
        if self.held_from is None or trainer.progress.train.iterations < self.held_from:
            return False
        return not self._delivered or all(task.kind == "checkpoint" for task in trainer.progress.pending)

    def hold(self, trainer: Trainer) -> None:
        """Stay at this safe point for as long as the run is held. What is asked meanwhile is done; signals end it."""
        if not (trainer.interrupts.running and self._holds(trainer)):
            return
        at, why = trainer.progress.train.iterations, self._why
        trainer.run.journal("paused", at=at, why=why)
        trainer.display.on_hold(trainer, why)
        self.pay(trainer, "the run is held again")
        while self._holds(trainer) and trainer.interrupts.requested is None:
            time.sleep(HELD)
            trainer.run.look_for_saved()
            self.take(trainer)
            trainer.steering.answer(trainer)
            trainer.run.write_journal(time.monotonic())
        if trainer.interrupts.requested is not None:
            self.held_from = None


def _lines_of(journal: Path, identity: str, line: int) -> list[dict[str, Any]]:
    """What a journal has of a command, newest first: no further back than the line before which it was taken."""
    found = []
    with closing(read_backwards(journal)) as entries:
        for _, entry in entries:
            if int(entry.get("seq", line)) < line:
                break
            if entry.get("id") == identity:
                found.append(entry)
    return found
