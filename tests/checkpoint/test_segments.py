"""A history in segments: their bytes, what a checkpoint costs, going back, and every kind of damage."""

import os
import random
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from deeptrain.checkpoint.chain import Chain, Link
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import CorruptCheckpoint, read_checkpoint, read_whole
from deeptrain.checkpoint.keeping import Keeping
from deeptrain.checkpoint.manifest import Manifest, ManifestError
from deeptrain.checkpoint.segments import SegmentError, blocks, read_link
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.checkpoint.verify import verify_all
from deeptrain.run.saving import Saver
from deeptrain.state.history import History, without_series
from deeptrain.state.tree import digest


class Process:
    """One that trains and saves. Its journal is empty, so that nothing can be rebuilt."""

    def __init__(self, run, keep=100):
        self.run, self.history, self.store = run, History(), CheckpointStore(run / "checkpoints", keep=keep)
        self.saver, self.at = Saver(self.store), 0
        if self.store.paths():
            newest = self.store.newest()
            self.load(newest.path)
            self.saver.appender.adopt(newest.chain, self.history)

    def load(self, path):
        tree, info = read_checkpoint(path)
        self.history.load_state_dict(tree["history"])
        self.at = info["at"]

    def train(self, count, salt=0.0):
        for at in range(self.at + 1, self.at + count + 1):
            self.history.add(at, {"loss": salt + at / 7, "accuracy": -at}, "train.")
            if at % 3 == 0:
                self.history.add(at, {"loss": at / 3}, "val.")
        self.at += count

    def save(self):
        tree = {"w": torch.zeros(3), "history": without_series()}
        self.saver.save(tree, self.history, {"at": self.at}, at=self.at, position=0)
        self.saver.wait()
        return self.saver.take()[0].path

    @property
    def digest(self):
        return digest(self.history.state_dict())


def history_of(path):
    return digest(read_checkpoint(path)[0]["history"])


def segments(run):
    return sorted((run / "history").iterdir()) if (run / "history").is_dir() else []


@pytest.fixture
def run(tmp_path):
    """Two processes, each with two checkpoints."""
    place = tmp_path / "M1__x"
    for _ in range(2):
        process = Process(place)
        for _ in range(2):
            process.train(4)
            process.save()
    return place


def newest(run):
    return CheckpointStore(run / "checkpoints").paths()[-1]


# ---------------------------------------------------------------------- the format


def by_the_description(data):
    """Reads a segment as the first lines of the module describe it."""
    assert data[:8] == b"DTHIST1\n"
    at, series = 8, {}
    while at < len(data):
        crc, size = struct.unpack_from("<IQ", data, at)
        assert zlib.crc32(data[at + 4 : at + 12 + size]) == crc
        at, end = at + 12, at + 12 + size
        while at < end:
            (length,) = struct.unpack_from("<I", data, at)
            name = data[at + 4 : at + 4 + length].decode()
            (n,) = struct.unpack_from("<Q", data, at + 4 + length)
            at += 12 + length
            iterations, values = (
                struct.unpack_from(f"<{n}q{n}d", data, at)[:n],
                struct.unpack_from(f"<{n}d", data, at + 8 * n),
            )
            found = series.setdefault(name, ([], []))
            found[0].extend(iterations)
            found[1].extend(values)
            at += 16 * n
    return series


def test_a_segment_reads_as_it_is_described(run):
    found = {}
    for path in segments(run):
        for name, (iterations, values) in by_the_description(path.read_bytes()).items():
            series = found.setdefault(name, ([], []))
            series[0].extend(iterations)
            series[1].extend(values)
    expected = Process(run).history
    assert found == {name: tuple(column.tolist() for column in expected[name]) for name in expected}
    assert len(found["train.loss"][0]) == 16
    assert found["val.loss"][0] == [3, 6, 9, 12, 15]


def test_the_bytes_are_pinned(tmp_path):
    """Segments that were written once are read in every version."""
    process = Process(tmp_path / "r")
    process.history.add(1, {"loss": 0.5}, "train.")
    process.at = 1
    process.save()
    (path,) = segments(tmp_path / "r")
    assert path.name == "000000.seg"
    parts = ["445448495354310a", "f89f4eb3", "2600000000000000", "0a000000", b"train.loss".hex()]
    parts += ["0100000000000000", "0100000000000000", "000000000000e03f"]
    assert path.read_bytes().hex() == "".join(parts)


def test_names_and_values_of_every_kind(tmp_path):
    process = Process(tmp_path / "r")
    odd = [float("nan"), float("inf"), -0.0, 5e-324, struct.unpack("<d", b"\1\2\3\4\0\0\xf8\xff")[0]]
    for value in odd:
        process.at += 1
        process.history.add(process.at, {"naïve\nloss": value, "half \ud800": 1, "": 2.5, "x" * 3000: value})
    path = process.save()
    assert history_of(path) == process.digest
    again = History()
    again.load_state_dict(read_checkpoint(path)[0]["history"])
    found = again["naïve\nloss"].values
    assert found.tobytes() == np.array(odd).tobytes()


def test_figures_that_wait_are_in_and_what_comes_later_is_not(tmp_path):
    """Figures may come late from a device: those of the safe point are complete, and none of a later one leaks in."""
    process = Process(tmp_path / "r")
    for at in range(1, 121):
        process.at = at
        process.history.add(at, {"loss": torch.tensor(at / 3)}, "train.")
        if at % 17 == 0:
            addition = process.saver.appender.stage(process.history)
            expected = process.digest
            process.history.add(at, {"later": torch.tensor(1.0)}, "val.")
            chain = process.saver.appender.write(addition)
            found = {name: s.size for name, s in chain.series.items()}
            assert found == {"train.loss": at} | ({"val.later": at // 17 - 1} if at > 17 else {})
            path = process.save()
            assert history_of(path) == process.digest != expected


# ---------------------------------------------------------------------- what it costs


def test_a_checkpoint_does_not_grow_with_the_run_and_a_save_adds_what_is_new(tmp_path):
    sizes = []
    process = Process(tmp_path / "r", keep=1)
    for count in (1000, 99_000):
        process.train(count)
        process.save()
        process.train(10)
        addition = process.saver.appender.stage(process.history)
        sizes.append(len(addition.block))
        path = process.save()
        sizes.append(sum(file.stat().st_size for file in path.iterdir()))
    assert abs(sizes[2] - sizes[0]) <= 16  # one validation more or less
    assert 400 < sizes[0] < 500
    assert 0 <= sizes[3] - sizes[1] < 50  # digits
    assert len(segments(tmp_path / "r")) == 1


def test_nothing_new_makes_no_file(tmp_path):
    process = Process(tmp_path / "r")
    path = process.save()
    assert not (tmp_path / "r" / "history").exists()
    assert history_of(path) == process.digest
    process.train(1)
    process.save()
    before = segments(tmp_path / "r")[0].read_bytes()
    process.save()
    again = Process(tmp_path / "r")
    again.save()
    assert [file.read_bytes() for file in segments(tmp_path / "r")] == [before]


def test_a_thousand_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    process, chain = Process(tmp_path / "r"), Chain()
    for _ in range(1000):
        process.saver.appender.adopt(chain, process.history)  # as a process does that goes on
        process.train(2)
        chain = process.saver.appender.write(process.saver.appender.stage(process.history))
    path = process.save()
    assert len(segments(tmp_path / "r")) == len(read_whole(path).chain.links) == 1000
    assert history_of(path) == process.digest
    assert sum(file.stat().st_size for file in path.iterdir()) < 100_000


# ---------------------------------------------------------------------- going back


def test_going_back_begins_a_segment_and_refers_to_a_prefix(tmp_path):
    process = Process(tmp_path / "r")
    paths, digests = [], []
    for _ in range(3):
        process.train(4)
        paths.append(process.save())
        digests.append(process.digest)
    before = segments(tmp_path / "r")[0].read_bytes()
    process.load(paths[1])
    process.train(2, salt=100)
    path = process.save()
    chain = read_whole(path).chain
    assert [link.number for link in chain.links] == [0, 1]
    assert chain.links[0] == read_whole(paths[1]).chain.links[0]
    assert segments(tmp_path / "r")[0].read_bytes() == before
    assert by_the_description(segments(tmp_path / "r")[1].read_bytes())["train.loss"][0] == [9, 10]
    assert history_of(path) == process.digest
    assert [history_of(old) for old in paths] == digests


def test_going_back_between_two_checkpoints_writes_the_rest_of_the_block_anew(tmp_path):
    process = Process(tmp_path / "r")
    process.train(4)
    process.save()
    process.train(2)
    state = process.history.state_dict()
    process.train(2)
    process.save()
    process.history.load_state_dict(state)
    process.at = 6
    process.train(1, salt=5)
    path = process.save()
    assert by_the_description(segments(tmp_path / "r")[1].read_bytes())["train.loss"][0] == [5, 6, 7]
    assert history_of(path) == process.digest


def test_loading_the_present_state_goes_on_in_the_same_segment(tmp_path):
    process = Process(tmp_path / "r")
    process.train(60)
    process.save()
    process.train(3)
    process.history.load_state_dict(process.history.state_dict())
    path = process.save()
    assert len(segments(tmp_path / "r")) == 1
    assert history_of(path) == process.digest


@pytest.mark.parametrize("seed", range(6))
def test_any_course_of_a_run_gives_the_history_of_each_checkpoint(tmp_path, seed):
    """Train, save, fail to save, go back, forth and elsewhere, die: each checkpoint keeps the history that it had."""
    chance, place = random.Random(seed), tmp_path / "r"
    process, expected, written, states = Process(place), {}, {}, []
    for _ in range(120):
        what = chance.choice(
            ["train", "train", "save", "save", "load", "state", "put back", "die", "fail", "other"]
        )
        if what == "train":
            process.train(chance.choice([1, 2, 7, 60]), salt=chance.random())
        elif what == "save":
            expected[process.save()] = process.digest
        elif what == "load" and expected:
            process.load(chance.choice(list(expected)))
        elif what == "state":
            states.append((process.history.state_dict(), process.at))
        elif what == "put back" and states:
            state, process.at = chance.choice(states)
            process.history.load_state_dict(state)
        elif what == "die":
            process = Process(place)
        elif what == "fail" and segments(place):
            process.train(3)
            file = chance.choice(segments(place))
            with file.open("ab") as end:
                end.write(b"\0" * chance.randint(1, 30))  # what a write that was cut short leaves
        elif what == "other":
            process.history.load_state_dict({"version": 1, "series": {}})
            process.at = 0
        present = {file: file.read_bytes() for file in segments(place)}
        assert all(present[file].startswith(data) for file, data in written.items())
        written = present
    assert len(expected) > 5
    assert {path: history_of(path) for path in expected} == expected


# ---------------------------------------------------------------------- damage


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


@pytest.mark.parametrize("number", [0, 1])
def test_any_flipped_bit_is_found_and_the_segment_named(run, number):
    path = newest(run)
    file = segments(run)[number]
    original = file.read_bytes()
    link = read_whole(path).chain.links[number]
    assert len(original) == link.size
    for bit in range(0, 8 * len(original), 3):
        flip(file, bit)
        with pytest.raises(SegmentError, match=rf"history/00000{number}\.seg: damaged at byte"):
            read_link(run, link)
        file.write_bytes(original)
    for bit in random.Random(0).sample(range(8 * len(original)), 20):
        flip(file, bit)
        verdict = verify_all(run)[-1]
        assert verdict.problem.startswith(f"history/00000{number}.seg: damaged at byte")
        with pytest.raises(CorruptCheckpoint, match=rf"history/00000{number}\.seg"):
            read_checkpoint(path)
        file.write_bytes(original)
    assert all(verdict.whole for verdict in verify_all(run))


def test_where_the_damage_is_is_said(run):
    file = segments(run)[1]
    first, second = [found.end for found in blocks(memoryview(file.read_bytes()))]
    flip(file, 8 * (first + 40))
    assert f"damaged at byte {first} or behind it" in verify_all(run)[-1].problem
    flip(file, 8 * (first + 40))
    flip(file, 8 * 30)
    assert "damaged at byte 8 or behind it" in verify_all(run)[-1].problem
    assert second == file.stat().st_size


def test_loading_walks_back_past_what_needs_the_damaged_segment(run):
    flip(segments(run)[1], 400)
    store = CheckpointStore(run / "checkpoints")
    found = store.newest()
    assert found.path.name == "000001"
    assert [path.name for path, _ in found.passed_over] == ["000003", "000002"]
    assert all("history/000001.seg: damaged" in why for _, why in found.passed_over)
    assert [verdict.whole for verdict in verify_all(run)] == [True, True, False, False]


def test_damage_behind_the_bytes_that_count_is_no_damage(run):
    first = CheckpointStore(run / "checkpoints").paths()[0]
    used = read_whole(first).chain.links[0].size
    flip(segments(run)[0], 8 * used + 3)
    assert [verdict.whole for verdict in verify_all(run)] == [True, False, False, False]
    with segments(run)[1].open("ab") as file:
        file.write(b"torn")
    flip(segments(run)[0], 8 * used + 3)
    assert all(verdict.whole for verdict in verify_all(run))


def test_cut_missing_and_swapped_segments(run):
    one, two = segments(run)
    kept = one.read_bytes(), two.read_bytes()
    for size in range(len(kept[1])):
        os.truncate(two, size)
        assert (
            f"000001.seg: has {size} bytes, expected at least {len(kept[1])}" in verify_all(run)[-1].problem
        )
    two.unlink()
    assert verify_all(run)[-1].problem.startswith(f"history/000001.seg: is missing, expected at {two}")
    shutil.copy(one, two)
    assert f"history/000001.seg: has {len(kept[0])} bytes" in verify_all(run)[-1].problem
    two.unlink()
    two.mkdir()
    assert verify_all(run)[-1].problem.startswith("history/000001.seg: is no regular file")
    two.rmdir()
    one.write_bytes(kept[1])
    two.write_bytes(kept[0])
    assert not any(verdict.whole for verdict in verify_all(run)[2:])
    one.write_bytes(kept[0])
    two.write_bytes(kept[1])
    assert all(verdict.whole for verdict in verify_all(run))


def test_a_checkpoint_of_another_run_or_branch_is_not_whole(run, tmp_path):
    other = tmp_path / "M2__y"
    process = Process(other)
    for _ in range(4):
        process.train(4, salt=1)
        process.save()
    shutil.rmtree(other / "checkpoints" / "000003")
    shutil.copytree(newest(run), other / "checkpoints" / "000003")
    assert [verdict.whole for verdict in verify_all(other)] == [True, True, True, False]
    assert verify_all(other)[-1].problem.startswith(
        "history/000000.seg: is another segment; history/000001.seg: is m"
    )
    # Another branch of the same run has its own segments, and both are whole.
    process = Process(run)
    process.load(run / "checkpoints" / "000000")
    process.train(4, salt=9)
    process.save()
    assert all(verdict.whole for verdict in verify_all(run))


def test_a_segment_that_is_gone_is_written_anew_with_all_that_is_in_memory(tmp_path):
    process = Process(tmp_path / "r")
    process.train(4)
    process.save()
    segments(tmp_path / "r")[0].unlink()
    process.train(4)
    with pytest.raises(
        CheckpointError, match=r"history/000000\.seg: the history that was written there is gone"
    ):
        process.save()
    path = process.save()
    assert history_of(path) == process.digest
    assert Chain.parse(read_whole(path).chain.plain()) == read_whole(path).chain


def test_a_copied_checkpoint_says_what_is_missing_and_what_to_do(run, tmp_path):
    away = tmp_path / "elsewhere" / "mine"
    shutil.copytree(newest(run), away)
    expected = (
        rf"history/000000\.seg: is missing, expected at {tmp_path}/history/000000\.seg.*skip=\[\"history\"\]"
    )
    with pytest.raises(CorruptCheckpoint, match=expected):
        read_checkpoint(away)
    tree, _, chain = read_whole(away, history=False)
    assert chain is None
    assert torch.equal(tree["w"], torch.zeros(3))
    assert list(tree["history"]["series"]) == ["train.loss", "train.accuracy", "val.loss"]
    shutil.copytree(run / "history", tmp_path / "history")
    assert history_of(away) == history_of(newest(run))


def test_a_link_to_a_checkpoint_finds_its_run_and_so_does_a_relative_path(run, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(newest(run))
    expected = history_of(newest(run))
    assert history_of(tmp_path / "link") == expected
    monkeypatch.chdir(newest(run).parent)
    assert history_of(newest(run).name) == expected


# ---------------------------------------------------------------------- what somebody made


@pytest.mark.parametrize(
    "history",
    [None, [], {}, {"segments": [], "series": []}, {"segments": [["../x", 1, 1]], "series": {}}, {"segments": [[0, -1, 0]], "series": {}},
     {"segments": [[0, 1]], "series": {}}, {"segments": [[0, 1, 2**32]], "series": {}}, {"segments": [[True, 1, 1]], "series": {}},
     {"segments": [], "series": {"a": [1, 2]}}],
)  # fmt: skip
def test_a_manifest_whose_chain_is_none_is_refused(run, history):
    manifest = Manifest.parse((newest(run) / "manifest.json").read_bytes())
    with pytest.raises(ManifestError, match="its history"):
        Manifest.parse(replace(manifest, history=0 if history is None else history).text())


def test_lengths_that_lie_are_not_believed(run):
    path = newest(run)
    for size in (2**62, 10**9):
        with pytest.raises(SegmentError, match="expected at least"):
            read_link(run, Link(0, size, 0))
    for body in (b"\xff" * 40, struct.pack("<IQ", 0, 2**63), struct.pack("<IQI", 0, 4, 2**31), b"\0" * 11):
        data = b"DTHIST1\n" + body
        (run / "history" / "000000.seg").write_bytes(data)
        link = Link(0, len(data), zlib.crc32(data))
        assert bytes(read_link(run, link)) == data
        with pytest.raises(SegmentError):
            list(blocks(memoryview(data)))
    assert not verify_all(path)[0].whole


def test_series_that_are_not_those_of_the_segments_are_refused(run):
    path = newest(run)
    manifest = Manifest.parse((path / "manifest.json").read_bytes())
    manifest.history["series"]["train.loss"][0] += 1
    (path / "manifest.json").write_bytes(manifest.text())
    with pytest.raises(CorruptCheckpoint, match="its history's series are not those of its segments"):
        read_checkpoint(path)


def test_rules_of_keeping_look_at_the_checkpoints_alone(run):
    assert len(segments(run)) == 2
    store = CheckpointStore(run / "checkpoints", keep=Keeping(keep=1))
    process = Process(run, keep=1)
    process.save()
    assert len(store.paths()) == 1
    assert len(segments(run)) == 2


def test_an_interrupt_while_the_history_is_compared_does_no_harm(tmp_path, monkeypatch):
    process = Process(tmp_path / "r")
    process.train(8)
    first = process.save()
    process.history.load_state_dict({"version": 1, "series": {}})
    process.at = 0
    process.train(12, salt=3)

    def interrupt(*_):
        raise KeyboardInterrupt

    for where in ("_common", "_cut"):
        with monkeypatch.context() as patch:
            patch.setattr(f"deeptrain.checkpoint.appending.{where}", interrupt)
            with pytest.raises(KeyboardInterrupt):
                process.save()
    before = history_of(first)
    path = process.save()
    assert history_of(path) == process.digest
    assert [link.number for link in read_whole(path).chain.links] == [1]
    assert history_of(first) == before
