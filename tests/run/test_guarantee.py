"""What an environment promises, and what another one costs: pure functions, case by case."""

import numpy as np
import pytest
from tests.support import recipes

import deeptrain as dt
from deeptrain.run.environment import surroundings
from deeptrain.run.fingerprint import Mismatch
from deeptrain.run.guarantee import EFFECTS, Guarantee, Reason, alone, between, taken

CPU = {"device": "cpu", "threads": 1, "deterministic": True, "loader": "BatchLoader"}
CUDA = CPU | {"device": "cuda:0", "cublas_workspace": ":4096:8", "cudnn_benchmark": False}

ALONE = {
    "a plain CPU": (CPU, [], ""),
    "several threads, deterministic": (CPU | {"threads": 8}, [], ""),
    "one thread, not deterministic": (CPU | {"deterministic": False}, [], ""),
    "several threads, not deterministic": (
        CPU | {"threads": 8, "deterministic": False},
        ["bits"],
        "deterministic algorithms are off and 8 threads",
    ),
    "an accelerator": (CUDA, [], ""),
    "one that is not deterministic": (
        CUDA | {"deterministic": False},
        ["bits"],
        "off on cuda",
    ),
    "one that only warns": (CUDA | {"deterministic_warn_only": True}, ["bits"], "dt.reproducible()"),
    "no workspace": (CUDA | {"cublas_workspace": None}, ["bits"], "CUBLAS_WORKSPACE_CONFIG is not set"),
    "autotuning": (CUDA | {"cudnn_benchmark": True}, ["bits"], "torch.backends.cudnn.benchmark = False"),
    "MPS": (CPU | {"device": "mps"}, ["bits"], "MPS"),
    "compiled": (CPU | {"compiled": ["model"]}, ["nothing"], "torch.compile is at work in model"),
    "compiled for many shapes": (
        CPU | {"compiled": ["model"], "compiled_adapts": True},
        ["bits"],
        "compiles each shape for itself",
    ),
    "several processes": (CPU | {"world_size": 2}, ["bits"], "2 processes"),
    "workers with streams of their own": (
        CPU | {"loader": "StatefulFeed", "workers": 2},
        ["bits"],
        "2 worker processes",
    ),
    "a loader with a state": (CPU | {"loader": "StatefulFeed", "workers": 0}, ["nothing"], "state_dict()"),
    "an iterable": (CPU | {"loader": "IterableFeed"}, ["nothing"], "depends on its number"),
    "a DataLoader": (CPU | {"loader": "TorchFeed"}, [], ""),
}


@pytest.mark.parametrize("name", ALONE)
def test_an_environment_by_itself(name):
    environment, costs, words = ALONE[name]
    found = alone(environment)
    assert [reason.costs for reason in found] == costs
    assert words in "".join(map(str, found))
    assert Guarantee.of(found).bits is ("bits" not in costs)
    assert Guarantee.of(found).order


BETWEEN = {
    "threads": ({"threads": 1}, {"threads": 4}, "bits", "torch.set_num_threads(1)"),
    "torch": ({"torch": "2.12"}, {"torch": "2.13"}, "bits", "install '2.12'"),
    "torch, DataLoader": (
        {"torch": "2.12", "loader": "TorchFeed"},
        {"torch": "2.13", "loader": "TorchFeed"},
        "order",
        "install '2.12'",
    ),
    "device": ({"device": "cpu"}, {"device": "cuda"}, "bits", "compute on 'cpu'"),
    "processor": ({"device_name": "A"}, {"device_name": "B"}, "bits", "compute on 'A'"),
    "deterministic": (
        {"deterministic": True},
        {"deterministic": False},
        "bits",
        "use_deterministic_algorithms(True)",
    ),
    "optimizers": (
        {"optimizers": ["AdamW: for-loop"]},
        {"optimizers": ["AdamW: fused"]},
        "bits",
        "optimizers: ['AdamW: for-loop'] -> ['AdamW: fused']",
    ),
    "compiled": ({"compiled": []}, {"compiled": ["model"]}, "bits", "compiled: [] -> ['model']"),
    "batch size": ({"batch_size": 8}, {"batch_size": 16}, "bits", "batches of 8"),
    "batch size of shuffled batches": (
        {"batch_size": 8, "shuffle": "batches"},
        {"batch_size": 16, "shuffle": "batches"},
        "order",
        "batches of 8",
    ),
    "world size": ({"world_size": 1}, {"world_size": 4}, "bits", "start 1 processes"),
    "shuffle": ({"shuffle": "global"}, {"shuffle": None}, "order", "shuffle='global'"),
    "one of several": (
        {"precisions": {"cuda_matmul": "none"}},
        {"precisions": {"cuda_matmul": "tf32"}},
        "bits",
        "precisions.cuda_matmul: 'none' -> 'tf32'",
    ),
    "a variable that is set": (
        {"variables": {}},
        {"variables": {"MKL_CBWR": "AVX2"}},
        "bits",
        "variables.MKL_CBWR: (absent) -> 'AVX2'",
    ),
    "what nobody knows": ({"weather": "rain"}, {"weather": "sun"}, "bits", "weather: 'rain' -> 'sun'"),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_each_difference_is_named_with_what_it_costs(name):
    before, now, costs, words = BETWEEN[name]
    (reason,) = between(before, now)
    assert reason.costs == costs
    assert words in str(reason)
    assert ("costs the bits and the order of samples" in str(reason)) == (costs == "order")
    assert between(now, now) == []


def test_what_an_older_record_does_not_tell_is_not_compared():
    assert between({"threads": 1}, {"threads": 1, "compiled": []}) == []
    assert between({}, CPU) == []


def test_everything_that_is_recorded_has_its_price_and_remedy():
    assert set(surroundings(recipes.trainer())) == set(EFFECTS)


@pytest.mark.parametrize("shuffle", [None, "sets", "samples", "global", "batches"])
def test_another_batch_size_leaves_the_order_as_it_is_told(tmp_path, shuffle):
    files = recipes.write_files(tmp_path / "data")

    def order(size):
        loader = dt.BatchLoader(dt.Files(files), batch_size=size, shuffle=shuffle, seed=1)
        return np.concatenate([loader.rows(2, batch) for batch in range(loader.batches)]).tolist()

    before, now = {"batch_size": 8, "shuffle": shuffle}, {"batch_size": 5, "shuffle": shuffle}
    (reason,) = between(before, now)
    assert (order(8) == order(5)) == (reason.costs == "bits")


def test_the_scripts_values_cost_bits_and_those_of_the_data_the_order():
    lr = Mismatch("step.optimizer.param_groups.0.lr", 0.1, 0.2)
    assert [reason.costs for reason in taken([lr])] == ["bits"]
    assert [reason.costs for reason in taken([Mismatch("data.train.seed", 1, 2)])] == ["order"]
    assert taken([Mismatch("data.train.batch_size", 8, 16)]) == []  # `between` tells of it


def test_a_guarantee_says_what_is_left_and_the_worst_first():
    held = Guarantee.of([Reason("as it is", "nothing")])
    assert (held.bits, held.order, held.reasons) == (True, True, ("as it is",))
    assert str(held) == "same bits\n  as it is"
    lost = Guarantee.of([Reason("on a condition", "nothing"), Reason("threads"), Reason("shuffle", "order")])
    assert (lost.bits, lost.order) == (False, False)
    assert lost.reasons == ("threads", "shuffle", "on a condition")
    assert str(lost).startswith("neither the bits nor the order of samples\n")
