"""`import deeptrain` costs little more than `import torch`: nothing heavy comes along unasked."""

import subprocess
import sys

LAZY = (
    "matplotlib",
    "blosc2",
    "lz4",
    "zstandard",
    "h5py",
    "pyarrow",
    "zarr",
    "rich",
    "safetensors",
    "onnx",
    "pandas",
    "IPython",
    "sklearn",
    "scipy",
)
TIMED = "import time, sys; t = time.perf_counter(); import {}; print(time.perf_counter() - t, sorted(sys.modules))"


def importing(module):
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(module)], capture_output=True, text=True, check=True
    )
    seconds, modules = done.stdout.split(" ", 1)
    return float(seconds), modules


def test_no_lazy_module_is_loaded():
    _, torch_modules = importing("torch")
    _, modules = importing("deeptrain")
    for name in LAZY:
        assert f"'{name}'" not in modules or f"'{name}'" in torch_modules, name


def test_the_best_time_is_within_15_percent_of_torchs_best():
    torch, deeptrain = [], []
    for _ in range(6):  # taking turns: the machine is noisy
        torch.append(importing("torch")[0])
        deeptrain.append(importing("deeptrain")[0])
        if min(deeptrain) <= 1.15 * min(torch):
            return
    raise AssertionError(f"import deeptrain {min(deeptrain):.3f} s, import torch {min(torch):.3f} s")
