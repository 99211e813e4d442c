"""What a run says of the promise, through its starts: at once what is lost, and never afterwards that it is not."""

import io
import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.control.journal import read_journal
from deeptrain.run import environment as environment_module
from tests.support import fresh, recipes

LOST = "the bits are not promised any more, only the order of samples"
STILL = "the bits of this run are not those of an untouched one"


def trainer(
    runs,
    *,
    threads=1,
    deterministic=True,
    version=None,
    batch_size=8,
    fused=None,
    train=None,
    model=None,
    **more,
):
    """A run in an environment of its own."""
    dt.reproducible(seed=0)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    if version is not None:
        found = environment_module._versions() | {"torch": version}
        environment_module._versions = lambda: found
    model = model or nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=fused)
    step = dt.SupervisedStep(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, device="cpu")
    if train is None:
        train = dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=batch_size, shuffle="global", seed=1)
    more = {"name": "r", "verbosity": 0, **more}
    return dt.Trainer(step, train, runs=runs, epochs=3, **more)


def life(runs, *, until=None, **more):
    """One process's work; gives what it printed, and the guarantee before and after it trained."""
    printed = io.StringIO()
    with trainer(runs, verbosity=dt.Display(1, stream=printed), **more) as t:
        before = t.info().guarantee
        t.fit(until=until and dt.At(batch=until))
        return printed.getvalue(), before, t.info().guarantee


def lives(runs, *settings):
    return [fresh.run(life, runs, **each) for each in settings]


def test_a_run_that_goes_on_in_the_same_environment_keeps_the_promise(tmp_path):
    for printed, before, after in lives(tmp_path, {"until": 5}, {"until": 9}, {}):
        assert LOST not in printed
        assert STILL not in printed
        for guarantee in (before, after):
            assert (guarantee.bits, guarantee.order) == (True, True)
            assert "one environment since the run's beginning: cpu, 1 thread" in guarantee.reasons[0]


CHANGES = {
    "threads": ({"threads": 2}, "threads: 1 -> 2 (costs the bits: ", "torch.set_num_threads(1)"),
    "deterministic": (
        {"deterministic": False},
        "deterministic: True -> False (costs the bits: ",
        "torch.use_deterministic_algorithms(True)",
    ),
    "version": ({"version": "2.99"}, "' -> '2.99' (costs the bits: ", f"install '{torch.__version__}'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_environment_is_said_at_once_with_its_cost_and_stays_said(tmp_path, name):
    change, words, remedy = CHANGES[name]
    began, other, again = lives(tmp_path, {"until": 5}, {"until": 9, **change}, {"until": 12, **change})
    assert LOST not in began[0]
    assert LOST in other[0]
    assert STILL not in other[0]
    assert (other[1].bits, other[1].order) == (False, True)  # before it has trained
    for text in (other[0], other[1].reasons[0], other[2].reasons[0], again[0], again[2].reasons[0]):
        assert words in text
        assert remedy in text
    assert f"after iteration 5: {name if name != 'version' else 'torch'}" in again[2].reasons[0]
    assert LOST not in again[0]
    assert STILL in again[0]
    assert not again[1].bits
    (path,) = tmp_path.glob("M*")
    (broken,) = dt.open_run(path).info["broken"]
    assert (broken["at"], broken["order"], len(broken["reasons"])) == (5, False, 1)


def test_going_back_to_the_first_environment_brings_nothing_back(tmp_path):
    *_, last = lives(tmp_path, {"until": 5}, {"until": 9, "threads": 2}, {"threads": 1})
    assert [reason[:34] for reason in last[2].reasons] == [
        "after iteration 5: threads: 1 -> 2",
        "after iteration 9: threads: 2 -> 1",
    ]


def test_a_start_in_another_environment_that_trains_nothing_costs_nothing(tmp_path):
    fresh.run(life, tmp_path, until=5)
    with trainer(tmp_path, threads=2) as t:
        assert not t.info().guarantee.bits
    torch.set_num_threads(1)
    assert fresh.run(life, tmp_path)[2].bits


def test_the_scripts_values_cost_the_bits_and_name_the_implementation(tmp_path):
    fresh.run(life, tmp_path, until=5)
    taken, later = lives(
        tmp_path, {"until": 9, "fused": True, "resume": "take"}, {"fused": True, "until": 12}
    )
    assert LOST in taken[0]
    for printed in (taken[0], later[0]):
        assert "optimizers: ['AdamW: for-loop'] -> ['AdamW: fused'] (costs the bits: " in printed
        assert "step.optimizer.param_groups.0.fused: None -> True (costs the bits: " in printed
    assert not later[2].bits
    assert later[2].order


def test_another_batch_size_at_an_epochs_start_costs_the_bits(tmp_path):
    fresh.run(life, tmp_path, until=8)
    printed, _, guarantee = fresh.run(life, tmp_path, batch_size=16, resume="take")
    assert "batch_size: 8 -> 16 (costs the bits: " in printed
    assert printed.count("batch_size: 8 -> 16") == 1
    assert (guarantee.bits, guarantee.order) == (False, True)


def test_what_changes_while_the_trainer_rests_counts_where_it_trains(tmp_path):
    with trainer(tmp_path) as t:
        torch.set_num_threads(2)
        assert t.info().guarantee.bits  # nothing was computed before
        torch.set_num_threads(1)
        t.step(3)
        torch.set_num_threads(2)
        try:
            assert not t.info().guarantee.bits
            assert "after iteration 3: threads: 1 -> 2" in t.info().guarantee.reasons[0]
        finally:
            torch.set_num_threads(1)
        assert t.info().guarantee.bits
        t.step(1)
        assert t.info().guarantee.bits
        assert t.run.standing.broken == []


def test_what_changes_between_two_fits_is_said_and_written_down_at_once(tmp_path):
    printed = io.StringIO()
    with trainer(tmp_path, verbosity=dt.Display(1, stream=printed)) as t:
        t.step(3)
        assert LOST not in printed.getvalue()
        torch.use_deterministic_algorithms(False)
        t.step(1)
        torch.use_deterministic_algorithms(True)
        text, path = printed.getvalue(), t.run.path
        assert LOST in text
        assert "deterministic: True -> False" in text
        assert not t.info().guarantee.bits
        t.step(1)
        t.run.save(t)
        assert [entry["at"] for entry in dt.open_run(path).info["broken"]] == [3, 4]
    (line, back) = [e for e in read_journal(path / "journal.jsonl") if e["kind"] == "environment"]
    assert (line["at"], back["at"]) == (3, 4)
    assert line["environment"]["deterministic"] is False


def test_what_a_handler_changes_is_noticed_when_the_state_is_saved(tmp_path):
    class Threads(dt.Callback):
        def on_train_batch_end(self, trainer, event):
            if event.iteration == 3:
                torch.set_num_threads(2)

    printed = io.StringIO()
    often = dt.Checkpoints(every=dt.Every(batches=2))
    try:
        with trainer(
            tmp_path, callbacks=[Threads()], checkpoints=often, verbosity=dt.Display(1, stream=printed)
        ) as t:
            t.step(5)
            (broken,) = t.run.standing.broken
            assert broken["at"] == 2  # somewhere behind it
            assert printed.getvalue().count(LOST) == 1
    finally:
        torch.set_num_threads(1)


def setting_late(runs, threads, until):
    """A script that sets the threads between making the trainer and training."""
    with trainer(runs) as t:
        torch.set_num_threads(threads)
        t.fit(until=dt.At(batch=until))
        return t.info().guarantee, t.run.standing.broken


def test_a_script_that_sets_its_threads_late_loses_nothing_by_it(tmp_path):
    for until in (5, 9):
        guarantee, broken = fresh.run(setting_late, tmp_path, 2, until)
        assert guarantee.bits
        assert broken == []


def test_steering_is_part_of_the_record_and_keeps_the_promise(tmp_path):
    with trainer(tmp_path) as t:
        t.step(3)
        t.set("optimizer.param_groups.*.weight_decay", 0.5)
        t.set("optimizer.param_groups.*.amsgrad", False)
        t.train.set_batch_size(5)
        t.step(2)
        assert t.info().guarantee.bits
    with trainer(tmp_path, resume="keep") as t:
        assert t.info().guarantee.bits
        t.step(1)
        assert t.run.standing.broken == []


def test_a_state_that_is_loaded_brings_its_own_standing(tmp_path):
    with trainer(tmp_path) as t:
        t.step(3)
        t.save(tmp_path / "whole")
        torch.use_deterministic_algorithms(False)
        t.step(2)
        t.save(tmp_path / "broken")
        torch.use_deterministic_algorithms(True)
        t.load(tmp_path / "whole")
        assert t.info().guarantee.bits
        t.step(1)
        assert t.info().guarantee.bits
        t.load(tmp_path / "broken")
        assert "after iteration 3: deterministic: True -> False" in t.info().guarantee.reasons[0]
        t.load(tmp_path / "whole", only=["model*"])  # a file like any other
        assert not t.info().guarantee.bits


def test_going_back_to_before_it_was_lost_is_going_back_to_before(tmp_path):
    with trainer(tmp_path) as t:
        t.step(3)
        torch.use_deterministic_algorithms(False)
        t.step(2)
        torch.use_deterministic_algorithms(True)
        assert not t.info().guarantee.bits
        t.rewind(to=dt.At(iteration=2))
        assert t.info().guarantee.bits
        t.step(2)
        assert t.info().guarantee.bits
    assert fresh.run(life, tmp_path)[1].bits


def test_a_child_run_has_lost_what_its_parent_had(tmp_path):
    lives(tmp_path, {"until": 5}, {"until": 9, "threads": 2})
    printed, _, guarantee = fresh.run(
        life, tmp_path, name="child", resume=str(tmp_path / "M1__r"), threads=2, until=12
    )
    assert STILL in printed
    assert not guarantee.bits


# ---------------------------------------------------------------- what the parts say of themselves


def test_a_generator_that_is_not_registered_is_named_until_it_is(tmp_path):
    model = nn.Linear(6, 3)
    model.noise = torch.Generator()
    t = trainer(None, model=model)
    guarantee = t.info().guarantee
    assert not guarantee.bits
    assert "model.noise is a torch" in guarantee.reasons[0]
    assert "register_generator('noise'" in guarantee.reasons[0]
    t.register_generator("noise", model.noise)
    assert t.info().guarantee.bits


def test_a_generator_within_a_data_set_of_a_data_set_is_found():
    class Own(torch.utils.data.Dataset):
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def __len__(self):
            return 16

        def __getitem__(self, i):
            return torch.zeros(6) + self.rng.standard_normal(), 0

    inner = torch.utils.data.Subset(Own(), range(8))
    for train in (
        dt.BatchLoader(dt.FromDataset(inner), batch_size=4),
        torch.utils.data.DataLoader(inner, batch_size=4),
    ):
        guarantee = trainer(None, train=train).info().guarantee
        assert not guarantee.bits
        assert guarantee.order
        assert ".rng is a numpy.random" in guarantee.reasons[0]


def test_loaders_of_others_say_on_what_the_promise_depends():
    x, y = recipes.data()
    stateful = trainer(None, train=recipes.Drawing(x, y)).info().guarantee
    assert stateful.bits
    assert any("state_dict() holds" in reason for reason in stateful.reasons)
    plain = trainer(None, train=recipes.drawing(x, y)).info().guarantee
    assert plain.bits
    assert any("depends on its number" in reason for reason in plain.reasons)


@pytest.mark.filterwarnings("ignore")  # torchdata calls what torch has deprecated
def test_workers_with_streams_of_their_own_cost_the_bits():
    loaders = pytest.importorskip("torchdata.stateful_dataloader")
    loader = loaders.StatefulDataLoader(recipes.Sampled(*recipes.data()), batch_size=8, num_workers=1)
    with trainer(None, train=loader) as t:
        guarantee = t.info().guarantee
    assert (guarantee.bits, guarantee.order) == (False, True)
    assert "1 worker processes are seeded when they start" in guarantee.reasons[0]


class Astray:
    """An iterable over batches that are others in each process, though it has a state."""

    def __init__(self, shift):
        self.shift, self.done = shift, 0

    def __iter__(self):
        x, y = recipes.data()
        for start in range(self.done, len(x), 8):
            self.done = start + 8
            yield x[start : start + 8] + self.shift, y[start : start + 8]
        self.done = 0

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


def test_a_loader_that_gave_another_batch_costs_the_order_for_good(tmp_path):
    with trainer(tmp_path, train=Astray(0.0)) as t:
        t.step(3)
        t.train.fetch()  # it knows what comes next
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with trainer(tmp_path, train=Astray(1.0)) as t:
            t.step(1)
            assert t.train.astray is not None
            assert not t.info().guarantee.order
            t.step(1)
            assert len(t.run.standing.broken) == 1
    with trainer(tmp_path, train=Astray(1.0)) as t:
        assert (t.info().guarantee.bits, t.info().guarantee.order) == (False, False)
        assert "gave another batch 3 in epoch 0" in t.info().guarantee.reasons[0]


def test_the_info_is_printed_with_its_reasons(tmp_path):
    text = repr(trainer(None).info())
    assert "guarantee: same bits\n  one environment since the run's beginning: cpu, 1 thread" in text
    assert "runs=None: nothing is saved by itself" in text


def test_each_start_is_in_the_journal_with_its_environment(tmp_path):
    lives(tmp_path, {"until": 5}, {"until": 9, "threads": 2})
    (path,) = tmp_path.glob("M*")
    starts = [entry for entry in read_journal(path / "journal.jsonl") if entry["kind"] == "start"]
    assert [entry["environment"]["threads"] for entry in starts] == [1, 2]
    for number, entry in enumerate(starts, 1):
        record = json.loads((path / "record" / f"start-000{number}.json").read_text())
        assert record["environment"] == entry["environment"]
