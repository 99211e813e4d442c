"""`trainer.save` and `trainer.load` of parts: what is taken, what stays, what is said."""

import io
import json

import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.checkpoint.format import read_checkpoint, read_info
from tests.support import recipes


def digests(t):
    """A digest of each part of the state."""
    return {name: dt.digest({"": part}) for name, part in t.state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    """A trainer after 3 iterations, and a checkpoint of it."""
    t = recipes.trainer()
    t.step(3)
    t.save(tmp_path / "c")
    return digests(t)


def later(iterations=6, **more):
    t = recipes.trainer(**more)
    t.step(iterations)
    return t


def plain(width=4, *, out=io.StringIO, momentum=0.9, **more):
    """A small trainer without a scheduler, that prints into `stream`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=momentum),
        device="cpu",
    )
    train = dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8, shuffle="global", seed=1)
    more = {"runs": None, **more}
    return dt.Trainer(step, train, epochs=3, verbosity=dt.Display(1, stream=out()), **more)


def printed(t):
    return t.display._screen.stream.getvalue()


# ---------------------------------------------------------------------- loading


@pytest.mark.parametrize("only", ["model", "optimizer", "random", "history", "callbacks", "scheduler"])
def test_one_part_is_taken_and_all_others_stay(only, saved, tmp_path):
    t = later()
    before = digests(t)
    report = t.load(tmp_path / "c", only=[only])
    assert digests(t) == {**before, only: saved[only]}
    assert before[only] != saved[only]
    assert report.loaded
    assert {path.partition(".")[0] for path in report.loaded} == {only}
    assert {path.partition(".")[0] for path in report.kept} == set(before) - {only, "version"}


@pytest.mark.parametrize("skip", ["model", "optimizer", "random", "history"])
def test_one_part_stays_and_all_others_are_taken(skip, saved, tmp_path):
    t = later()
    before = digests(t)
    report = t.load(tmp_path / "c", skip=[skip])
    assert digests(t) == {**saved, skip: before[skip]}
    assert {path.partition(".")[0] for path in report.kept} == {skip}


def test_a_whole_load_reports_nothing(saved, tmp_path):
    t = later()
    assert t.load(tmp_path / "c") is None
    assert digests(t) == saved


def test_a_run_goes_on_from_its_parts_put_together_to_the_same_bits(tmp_path):
    whole = recipes.trainer()
    whole.fit(until=dt.At(iteration=7))
    whole.save(tmp_path / "weights", only=["model*", "loss"])
    whole.save(tmp_path / "rest", skip=["model*", "loss"])
    whole.fit()
    t = recipes.trainer()
    t.load(tmp_path / "rest")
    report = t.load(tmp_path / "weights")
    assert t.progress.train.iterations == 7
    assert all(path.startswith(("model", "loss")) for path in report.loaded)
    t.fit()
    assert dt.digest(t.state_dict()) == dt.digest(whole.state_dict())


def test_the_present_learning_rate_is_kept(tmp_path):
    old, t = plain(), plain()
    old.step(3)
    old.save(tmp_path / "c")
    t.learner.optimizer.param_groups[0]["lr"] = 0.025
    t.load(tmp_path / "c", skip=["optimizer.param_groups.*.lr"])
    assert t.get("optimizer.param_groups.0.lr") == 0.025
    assert dt.digest(t.state_dict()["optimizer"]["state"]) == dt.digest(
        old.state_dict()["optimizer"]["state"]
    )
    t.fit()
    assert t.get("optimizer.param_groups.0.lr") == 0.025


@pytest.mark.parametrize("name", ["first", "second"])
def test_tied_weights_stay_tied(name, saved, tmp_path):
    t = later()
    t.load(tmp_path / "c", only=[f"model.{name}\\.weight"])
    net = t.learner.model
    assert net.first.weight is net.second.weight
    tensors = read_checkpoint(tmp_path / "c")[0]["model"]
    assert torch.equal(net.first.weight, tensors["first.weight"])
    assert not torch.equal(net.head.weight, tensors["head.weight"])
    t.fit()


def test_into_a_trainer_of_other_parts_what_fits_is_taken_and_the_rest_told(saved, tmp_path):
    t = recipes.trainer("plateau", callbacks=[recipes.Chain()])
    report = t.load(tmp_path / "c", only=["model", "callbacks", "history"])
    assert "callbacks.Jitter.drawn.0" in report.ignored
    assert digests(t)["model"] == saved["model"]
    t.fit()


# ---------------------------------------------------------------------- saving


def test_a_part_that_was_saved_says_so_and_is_never_taken_for_the_whole(saved, tmp_path):
    t = later()
    t.save(tmp_path / "w", skip=["optimizer", "random"])
    assert read_info(tmp_path / "w")["partial"] == {"only": [], "skip": ["optimizer", "random"]}
    assert "partial" not in read_info(tmp_path / "c")
    assert "optimizer" not in read_checkpoint(tmp_path / "w")[0]
    other = recipes.trainer()
    before, state = digests(other), digests(t)
    report = other.load(tmp_path / "w")
    assert digests(other) == {**state, "optimizer": before["optimizer"], "random": before["random"]}
    assert {path.partition(".")[0] for path in report.kept} == {"optimizer", "random"}


def test_weights_are_loaded_from_a_part(tmp_path):
    t = later(2)
    t.save(tmp_path / "w", only="model")
    dt.load_weights(tmp_path / "w", other := recipes.Net())
    assert dt.digest(other.state_dict()) == dt.digest(t.learner.model.state_dict())


def test_a_pattern_that_matches_nothing_is_refused_before_anything_happens(saved, tmp_path):
    t = later()
    before = digests(t)
    for argument in ("only", "skip"):
        with pytest.raises(KeyError, match=rf"{argument}=.*optimzer.*near it .*optimizer"):
            t.load(tmp_path / "c", **{argument: ["optimzer.*"]})
        with pytest.raises(KeyError, match=rf"{argument}=.*near it .*optimizer"):
            t.save(tmp_path / "w", **{argument: ["optimzer"]})
    assert not (tmp_path / "w").exists()
    assert digests(t) == before


# ---------------------------------------------------------------------- what does not fit


def test_other_shapes_are_named_and_nothing_is_changed(tmp_path):
    old, wider = plain(), plain(width=5)
    old.step(2)
    old.save(tmp_path / "c")
    before = digests(wider)
    with pytest.raises(
        ValueError, match=r"model\.0\\.weight: found tensor float32 \[4, 6\], expected .*\[5, 6\]"
    ):
        wider.load(tmp_path / "c", only=["model.*"])
    assert digests(wider) == before
    report = wider.load(tmp_path / "c", only=["model.2\\.bias"])
    assert report.loaded == ["model.2\\.bias"]
    wider.fit()


def test_averages_of_another_shape_are_named_before_a_step_can_tear_the_state(tmp_path):
    old, wider = plain(), plain(width=5)
    old.step(2)
    old.save(tmp_path / "c")
    before = digests(wider)
    with pytest.raises(
        ValueError, match=r"optimizer\.state\.0\.momentum_buffer: found shape \[4, 6\], expected \[5, 6\]"
    ):
        wider.load(tmp_path / "c", skip=["model"])
    assert digests(wider) == before
    wider.load(tmp_path / "c", skip=["model", "optimizer.state"])
    wider.fit()


def function_step():
    torch.manual_seed(0)
    net, head = nn.Linear(6, 4), nn.Linear(4, 3)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], 1e-2)

    def step(batch):
        loss = nn.functional.cross_entropy(head(net(batch.inputs)), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    train = dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8, shuffle="global", seed=1)
    return dt.Trainer(step, train, epochs=2, runs=None, verbosity=0)


def test_parts_of_a_function_step(tmp_path):
    t, other = function_step(), function_step()
    t.step(3)
    t.save(tmp_path / "c")
    before, saved = digests(other), digests(t)
    other.load(tmp_path / "c", only=["net", "optimizer"])
    assert digests(other) == {**before, "net": saved["net"], "optimizer": saved["optimizer"]}
    with pytest.raises(ValueError, match=r"has 2 modules \(Linear, Linear\): give the one that is meant"):
        dt.save_weights(t, tmp_path / "w.pt")
    other.fit()


def test_a_part_is_not_loaded_inside_a_handler(saved, tmp_path):
    class Loads(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            trainer.load(tmp_path / "c", only=["model"])

    t = recipes.trainer(callbacks=[Loads()])
    with pytest.raises(RuntimeError, match="inside a handler of Loads"):
        t.step(1)


def test_a_file_of_weights_is_sent_to_load_weights(tmp_path):
    t = later(2)
    for name in ("w.pt", "w.safetensors"):
        dt.save_weights(t, tmp_path / name)
        with pytest.raises(ValueError, match=r"dt\.load_weights\(.*w\."):
            t.load(tmp_path / name)


def test_a_part_is_not_put_into_a_torn_state(saved, tmp_path):
    t = later(2)
    t.tear("a test", RuntimeError())
    with pytest.raises(dt.TornStateError, match="only be loaded into one that is whole"):
        t.load(tmp_path / "c", only=["model"])
    t.load(tmp_path / "c")
    assert digests(t) == saved


# ---------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("steps", "patterns", "line"),
    [
        (12, {}, "went back from iteration 12 to 3, and the loader to epoch 1, batch 4"),
        (1, {}, "went forth from iteration 1 to 3, and the loader to epoch 1, batch 4"),
        (12, {"only": ["progress"]}, "went back from iteration 12 to 3, while the loader stays at epoch 2, batch 5"),
        (5, {"only": ["data.*.cursor"]},
         "the loader went back from epoch 1, batch 6 to epoch 1, batch 4, the count stays at iteration 5"),
        (5, {"only": ["model"]}, None),
        (3, {}, None),
    ],
)  # fmt: skip
def test_a_load_of_counters_says_where_it_went(steps, patterns, line, tmp_path):
    old, t = plain(), plain()
    old.step(3)
    old.save(tmp_path / "c")
    t.step(steps)
    t.load(tmp_path / "c", **patterns)
    said = [words for words in printed(t).splitlines() if "iteration" in words and "loader" in words]
    assert said == ([] if line is None else [f"{tmp_path / 'c'}: {line}"])


def test_a_partial_load_is_printed_and_written_in_the_journal(tmp_path):
    with plain(runs=tmp_path / "runs", name="r") as t:
        t.step(3)
        t.save(tmp_path / "c", skip=["optimizer"])
        t.step(2)
        t.load(tmp_path / "c")
        path = t.run.path
        text = printed(t)
    assert any(
        line.startswith(f"{tmp_path / 'c'}: loaded ") and "; kept " in line for line in text.splitlines()
    )
    entries = [json.loads(line) for line in (path / "journal.jsonl").read_text().splitlines()]
    load = next(entry for entry in entries if entry["kind"] == "load")
    assert (load["before"], load["at"]) == (5, 3)
    assert "optimizer" in load["part"]


def test_what_was_loaded_at_the_place_of_a_checkpoint_is_saved_at_the_end(tmp_path):
    other = plain()
    other.step(4)
    other.save(tmp_path / "c", only=["model"])
    with plain(runs=tmp_path / "runs", name="r") as t:
        t.step(3)
        t.run.save(t)
        t.load(tmp_path / "c")
        state = dt.digest(t.state_dict())
    with plain(runs=tmp_path / "runs", name="r") as again:
        assert dt.digest(again.state_dict()) == state
