"""What decides over bits is recorded as it really is: which kernels step a group, what is compiled, what was set."""

import importlib
import json

import pytest
import torch
from tests.support import recipes
from torch import nn

import deeptrain as dt
from deeptrain.run.environment import compiled, environment, implementation, surroundings

# Where torch keeps the implementations of each, by the names "_single_tensor_...", "_multi_tensor_...", "_fused_...".
MODULES = {
    "SGD": "sgd", "Adam": "adam", "AdamW": "adam", "Adagrad": "adagrad", "Adadelta": "adadelta", "Adamax": "adamax",
    "ASGD": "asgd", "NAdam": "nadam", "RAdam": "radam", "RMSprop": "rmsprop", "Rprop": "rprop",
    "Adafactor": "_adafactor", "Muon": "_muon",
}  # fmt: skip
WAYS = {"_single_tensor_": "for-loop", "_multi_tensor_": "foreach", "_fused_": "fused"}
FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}
ASKED = [
    {},
    {"foreach": False},
    {"foreach": True},
    {"fused": False},
    {"fused": True},
    {"lr": torch.tensor(0.1)},
]
CASES = [
    (name, more)
    for name in MODULES
    for more in ASKED
    if (name in FUSED or "fused" not in more) and (name != "Muon" or not more)
]


def really_run(monkeypatch, optimizer):
    """Step an optimizer, and tell which of torch's functions it called."""
    module, ran = importlib.import_module(f"torch.optim.{MODULES[type(optimizer).__name__]}"), []
    for name in vars(module).copy():
        for beginning, way in WAYS.items():
            if name.startswith(beginning):
                real = getattr(module, name)
                watched = lambda *a, real=real, way=way, **k: ran.append(way) or real(*a, **k)  # noqa: E731
                monkeypatch.setattr(module, name, watched)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    return ran


@pytest.mark.parametrize("device_has_foreach", [False, True])
@pytest.mark.parametrize(("name", "more"), CASES, ids=str)
def test_the_implementation_is_the_one_that_torch_runs(monkeypatch, name, more, device_has_foreach):
    if device_has_foreach:  # as an accelerator has
        module = importlib.import_module("torch.optim.optimizer")
        monkeypatch.setattr(module, "_get_foreach_kernels_supported_devices", lambda: ["cpu"])
    parameters = [nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(2, 2))]
    try:
        optimizer = getattr(torch.optim, name)(parameters, **({"lr": 0.1} | more))
    except (ValueError, TypeError) as refused:
        pytest.skip(f"torch refuses it: {refused}")
    said = implementation(optimizer, optimizer.param_groups[0])
    assert really_run(monkeypatch, optimizer) == [said]


def test_each_optimizer_is_recorded_with_all_of_its_ways():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    t = recipes.trainer()
    t.learner.optimizer = torch.optim.SGD([{"params": [a], "fused": True}, {"params": [b]}], 0.1)
    assert surroundings(t)["optimizers"] == ["SGD: fused, for-loop"]

    class Own(torch.optim.SGD):
        pass

    own = Own([a], 0.1)
    assert implementation(own, own.param_groups[0]) == "its own"


@pytest.mark.filterwarnings("ignore")  # importing torch's compiler warns of its own parts
def test_what_is_compiled_is_named():
    class Step:
        def __init__(self, *modules):
            self._modules = modules

        def modules(self):
            return self._modules

    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    assert compiled(Step(model)) == []
    model[0].compile()
    assert compiled(Step(model, nn.MSELoss())) == ["model.0"]
    assert compiled(Step(nn.Linear(1, 1), torch.compile(nn.MSELoss()))) == ["OptimizedModule"]
    step = Step(nn.Linear(1, 1))
    step.function = torch.compile(lambda batch: batch)
    assert compiled(step) == ["step"]


SETTINGS = {
    "threads": (lambda: torch.set_num_threads(2), lambda: torch.set_num_threads(1)),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(False),
        lambda: torch.use_deterministic_algorithms(True),
    ),
    "mkldnn": (
        lambda: setattr(torch.backends.mkldnn, "enabled", False),
        lambda: setattr(torch.backends.mkldnn, "enabled", True),
    ),
    "precisions": (
        lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
        lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "none"),
    ),
    "attention": (
        lambda: torch.backends.cuda.enable_flash_sdp(False),
        lambda: torch.backends.cuda.enable_flash_sdp(True),
    ),
    "default_dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.float32),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_script_sets_is_seen_at_once(name):
    torch.use_deterministic_algorithms(True)
    change, back = SETTINGS[name]
    before = environment()
    change()
    try:
        after = environment()
    finally:
        back()
    assert {key for key in before if before[key] != after[key]} == {name}
    assert environment() == before


def test_an_autocast_around_it_and_the_librarys_variables_are_recorded(monkeypatch):
    assert environment()["autocast"] is None
    with torch.autocast("cpu", torch.bfloat16):
        assert environment()["autocast"] == "torch.bfloat16"
    assert environment("meta")["autocast"] is None
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert environment()["variables"]["MKL_CBWR"] == "COMPATIBLE"


def test_the_world_size_is_that_of_the_processes_that_train(tmp_path):
    assert environment()["world_size"] == 1
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert environment()["world_size"] == 1
    finally:
        torch.distributed.destroy_process_group()


def test_the_record_and_the_checkpoint_hold_all_of_it(tmp_path):
    with recipes.trainer(runs=tmp_path, name="r", preprocess="repeat") as t:
        t.step(1)
        t.run.save(t)
        path = t.run.path
    start = json.loads((path / "record" / "start-0001.json").read_text())["environment"]
    assert start == dt.open_run(path).info["environment"]
    assert (start["batch_size"], start["loader"], start["compiled"]) == (6, "BatchLoader", [])
    assert start["optimizers"] == ["AdamW: for-loop"]
    assert start["pieces"]
