"""What a user wants of every script: where it comes from, what is refused, and that the run's record has it."""

import json

import pytest

import deeptrain as dt
from deeptrain.preferences import defaults_file
from tests.support import recipes


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "defaults.toml"
    path.write_text("")
    monkeypatch.setenv("DEEPTRAIN_DEFAULTS", str(path))
    yield path
    for name in ("verbosity", "digits", "runs"):
        delattr(dt.defaults, name)


def test_python_goes_before_the_environment_and_that_before_the_file(file, monkeypatch):
    assert dt.defaults.digits == 4
    file.write_text("digits = 5")
    assert dt.defaults.digits == 5
    monkeypatch.setenv("DEEPTRAIN_DIGITS", "6")
    assert dt.defaults.digits == 6
    dt.defaults.digits = 7
    assert dt.defaults.digits == 7
    assert repr(dt.defaults).splitlines() == [
        "verbosity = 1  (built in)", "digits = 7  (Python)", "runs = 'runs'  (built in)"
    ]  # fmt: skip
    del dt.defaults.digits
    assert dt.defaults.digits == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("verbosity = 3", "defaults.toml: verbosity = 3: expected 0"),
        ("verbosity = true", "verbosity = True: expected 0"),
        ("digits = 0", "digits = 0: expected a whole number"),
        ("runs = 3", "runs = 3: expected the path"),
        ("verbosty = 0", "no such default; there are verbosity, digits, runs .meant verbosity"),
        ("verbosity = ", "is no TOML"),
    ],
)
def test_a_wrong_file_is_said_where_a_trainer_is_made(file, text, message):
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipes.trainer(verbosity=None)


def test_wrong_values_are_refused_and_change_nothing(file, monkeypatch):
    with pytest.raises(ValueError, match="verbosity=5"):
        dt.set_defaults(digits=3, verbosity=5)
    assert dt.defaults.digits == 4
    with pytest.raises(TypeError, match="no such default"):
        dt.set_defaults(digit=3)
    with pytest.raises(AttributeError, match="meant digits"):
        dt.defaults.digit = 3
    monkeypatch.setenv("DEEPTRAIN_VERBOSITY", "loud")
    with pytest.raises(ValueError, match="DEEPTRAIN_VERBOSITY='loud'"):
        _ = dt.defaults.verbosity


def test_a_file_that_is_named_and_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPTRAIN_DEFAULTS", str(tmp_path / "none.toml"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        _ = dt.defaults.digits
    monkeypatch.delenv("DEEPTRAIN_DEFAULTS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert defaults_file() == tmp_path / "deeptrain" / "defaults.toml"
    assert dt.defaults.digits == 4


def test_a_trainer_goes_by_them_and_its_record_says_so(file, tmp_path, capsys):
    file.write_text(f"runs = '{tmp_path / 'mine'}'\nverbosity = 0\ndigits = 2")
    model_of = recipes.Net()
    step = dt.SupervisedStep(
        model_of,
        loss=recipes.nn.CrossEntropyLoss(),
        optimizer=recipes.torch.optim.SGD(model_of.parameters(), 0.1),
        device="cpu",
    )
    t = dt.Trainer(step, dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=30), name="r")
    t.fit()
    t.close()
    assert t.run.path.parent == tmp_path / "mine"
    assert capsys.readouterr().out == ""
    (start,) = (t.run.path / "record").glob("*.json")
    recorded = json.loads(start.read_text())["defaults"]
    assert recorded["digits"] == {"value": 2, "from": str(file), "used": 2}
    assert recorded["verbosity"]["used"] == 0
    assert recorded["runs"]["used"] == str(tmp_path / "mine")


def test_what_the_script_says_goes_before_all(file, tmp_path):
    file.write_text("verbosity = 2")
    t = recipes.trainer(runs=tmp_path / "own", verbosity=0)
    assert t.display.verbosity == 0
    assert t.run.path.parent == tmp_path / "own"
    t.close()
