"""The public face: documented names, runnable examples, no way to execute what is read."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import deeptrain as dt

MODULES = [
    m.name
    for m in pkgutil.walk_packages(dt.__path__, "deeptrain.")
    if "__main__" not in m.name and "demo" not in m.name
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    names = {**{n: getattr(dt, n) for n in dt.__all__}, "torch": torch, "nn": torch.nn, **vars(module)}
    failed, _ = doctest.testmod(
        module, extraglobs=names, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert not failed


def test_every_public_name_is_documented():
    assert sorted(dt.__all__) == dt.__all__
    for name in dt.__all__:
        assert getattr(dt, name).__doc__, name


def test_nothing_read_is_unpickled_or_executed():
    forbidden = re.compile(
        r"(^|[^_.a-zA-Z])(pickle|eval\(|exec\(|yaml\.load|weights_only=False|allow_pickle=True|torch\.load)"
    )
    for path in Path(dt.__file__).parent.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("#")[0]
            assert not forbidden.search(code) or '"' in code or "``" in code or "No pickle" in code, (
                f"{path}:{number}: {line}"
            )
