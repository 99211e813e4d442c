"""`Throughput` and `DeviceStats`: what clocks and meters say goes to a sink, and into nothing of the state."""

import io
import sys

import pytest
import torch

import deeptrain as dt
from deeptrain.callbacks import gauge
from tests.support import recipes


def test_rows_and_iterations_by_the_clock(monkeypatch):
    now, seen = [0.0], []
    monkeypatch.setattr(gauge, "monotonic", lambda: now[0])

    def work(trainer):
        now[0] += 0.5

    speed = dt.Throughput(dt.Every(seconds=2), seen.append)
    recipes.trainer(callbacks=[{"train:iter": work}, speed], scheduler="none").fit()
    # 8 rows in a batch, 4 in each epoch's last.
    assert [each["rows_per_second"] for each in seen] == [16, 14, 16, 14]
    assert {each["iterations_per_second"] for each in seen} == {2}
    assert speed.last == seen[-1]


def test_time_at_rest_does_not_count(monkeypatch):
    now, seen = [0.0], []
    monkeypatch.setattr(gauge, "monotonic", lambda: now[0])

    def work(trainer):
        now[0] += 1

    t = recipes.trainer(callbacks=[{"train:iter": work}, dt.Throughput(dt.Every(iterations=4), seen.append)])
    t.step(2)
    now[0] += 1000
    t.step(2)
    assert [each["iterations_per_second"] for each in seen] == [1.0]


def test_it_is_printed_by_default_and_nothing_of_it_is_state():
    out = io.StringIO()
    callbacks = [dt.Throughput(dt.Every(batches=4)), dt.DeviceStats(dt.Every(batches=4))]
    t = recipes.trainer(callbacks=callbacks, verbosity=dt.Display(1, stream=out))
    t.fit()
    assert out.getvalue().count(" rows/s\n") == 4
    assert ("rss_peak" in out.getvalue()) == (sys.platform != "win32")
    plain = recipes.trainer(callbacks=[])
    plain.fit()
    assert t.state_dict()["callbacks"] == {"Throughput": {}, "DeviceStats": {}}
    assert dt.digest(t.state_dict()["history"]) == dt.digest(plain.state_dict()["history"])


def test_sinks_are_not_told_of_a_replay_again():
    seen = []
    t = recipes.trainer(callbacks=[dt.Throughput(dt.Every(iterations=1), seen.append)])
    t.run.replay_until = 3
    t.step(5)
    assert len(seen) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_is_that_of_the_process():
    seen = []
    t = recipes.trainer(callbacks=[dt.DeviceStats(dt.Every(iterations=1), seen.append)])
    t.step(1)
    held = torch.ones(64 << 20, dtype=torch.uint8)
    t.step(1)
    del held
    grown = seen[1]["rss"] - seen[0]["rss"]
    assert 60 << 20 <= grown <= 200 << 20
    assert seen[1]["rss_peak"] >= seen[1]["rss"] * 0.9
    assert "device_allocated" not in seen[0]


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_memory_of_the_accelerator():
    from deeptrain.callbacks.device_stats import device_memory

    device = torch.accelerator.current_accelerator()
    before = device_memory(device)["device_allocated"]
    held = torch.ones(1 << 20, device=device)
    assert device_memory(device)["device_allocated"] >= before + held.nbytes


def test_a_cadence_is_asked_for():
    with pytest.raises(TypeError, match="expected a cadence"):
        dt.Throughput(30)


def test_what_they_count_is_no_suspect_where_runs_differ():
    from deeptrain.introspect.suspects import attributes

    t = recipes.trainer(
        callbacks=[dt.Throughput(), dt.DeviceStats(), dt.TimeLimit(9), dt.EarlyStopping(patience=1)]
    )
    assert not [place for place in attributes(t) if place.startswith("callbacks.")]
