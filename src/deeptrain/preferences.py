"""`defaults`: what a user wants of every script that does not say otherwise, in one place.

A value comes from the first of these that has it:

    dt.defaults.verbosity = 0                       # Python, in this process
    DEEPTRAIN_VERBOSITY=0                           # the environment
    verbosity = 0                                   # ~/.config/deeptrain/defaults.toml
    1                                               # built in

What a script gives itself (`Trainer(verbosity=2)`) goes before all of them. The file is read whenever a value is asked
for, never at import, so that a broken one is reported where a trainer is made, and a mended one counts at once.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

FILE = "DEEPTRAIN_DEFAULTS"  # another file; empty: none


class Unset(Enum):
    """Stands for an argument that was not given where None has a meaning of its own."""

    UNSET = "the user's default"

    def __repr__(self) -> str:
        return "<dt.defaults>"


UNSET = Unset.UNSET


def defaults_file() -> Path | None:
    """The user's file: `deeptrain/defaults.toml` in `$XDG_CONFIG_HOME` or `~/.config`.

    The environment's `DEEPTRAIN_DEFAULTS` names another one; where that is empty there is none.

    Returns:
        Its path, whether or not it is there; None where there is to be none.
    """
    named = os.environ.get(FILE)
    if named is not None:
        return Path(named).expanduser() if named else None
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative one is to be ignored, as the convention has it: it would depend on where a script is started.
    base = Path(home) if Path(home).is_absolute() else Path("~/.config").expanduser()
    return base / "deeptrain" / "defaults.toml"


def _verbosity(value: Any) -> int:
    if type(value) is not int or value not in {0, 1, 2}:
        raise ValueError("expected 0 (nothing), 1 (epochs, a live line) or 2 (each batch)")
    return value


def _digits(value: Any) -> int:
    most = 17  # no double has more
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"expected a whole number of significant digits from 1 to {most}")
    return value


def _runs(value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError("expected the path of a directory")
    return os.path.expanduser(os.fspath(value))  # noqa: PTH111 - "./runs" stays as it was written


class _Default(Generic[T]):
    """One of the values: what it is built in, and what it may be."""

    def __init__(self, built_in: T, check: Callable[[Any], T]) -> None:
        self.built_in, self.check = built_in, check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> _Default[T]: ...

    @overload
    def __get__(self, instance: Defaults, owner: type) -> T: ...

    def __get__(self, instance: Defaults | None, owner: type) -> _Default[T] | T:
        return self if instance is None else self.find(instance)[0]

    def __set__(self, instance: Defaults, value: T) -> None:
        instance.given[self.name] = self.checked(value, f"dt.defaults.{self.name} = {value!r}")

    def __delete__(self, instance: Defaults) -> None:
        instance.given.pop(self.name, None)

    def find(self, instance: Defaults) -> tuple[T, str]:
        """The value that is in force, and where it comes from."""
        from_file = read_defaults()  # even where it does not decide: a broken one is not to lie in wait
        if self.name in instance.given:
            return instance.given[self.name], "Python"
        variable = f"DEEPTRAIN_{self.name.upper()}"
        if variable in os.environ:
            return self.from_text(os.environ[variable], variable), variable
        if self.name in from_file:
            return from_file[self.name], str(defaults_file())
        return self.built_in, "built in"

    def from_text(self, text: str, variable: str) -> T:
        """What an environment variable says."""
        what = f"the environment's {variable}={text!r}"
        number = isinstance(self.built_in, int) and text.strip().isdecimal()
        return self.checked(int(text) if number else text, what)

    def checked(self, value: Any, what: str) -> T:
        """The value, or an error that says where the wrong one stands."""
        try:
            return self.check(value)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None


class Defaults:
    """What holds where a script says nothing: assign to change it in this process, `del` to go back.

    Attributes:
        verbosity: What a trainer prints: 0, 1 or 2; see `Trainer`. 1 built in.
        digits: Significant digits of a figure that is shown. 4 built in.
        runs: The directory of runs; "~" is the home directory. "runs" built in.

    Raises:
        ValueError: A value is none that it may be; the message names the file and the key, or the variable.
        OSError: The user's file is there and cannot be read.

    Example:
        >>> defaults.digits = 6
        >>> defaults.digits
        6
        >>> del defaults.digits
    """

    __slots__ = ("given",)

    verbosity = _Default(1, _verbosity)
    digits = _Default(4, _digits)
    runs = _Default("runs", _runs)

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in KEYS and name != "given":
            raise AttributeError(f"dt.defaults.{name}: {_unknown(name)}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        found = [(name, *KEYS[name].find(self)) for name in KEYS]
        return "\n".join(f"{name} = {value!r}  ({source})" for name, value, source in found)

    def in_force(self, **used: Any) -> dict[str, dict[str, Any]]:
        """Every default with where it comes from, for a run's record.

        Args:
            used: By name, what is really used: the script may have said otherwise.

        Example:
            >>> defaults.in_force(digits=3)["digits"]["used"]
            3
        """
        found = {name: KEYS[name].find(self) for name in KEYS}
        return {
            name: {"value": value, "from": source, "used": used.get(name, value)}
            for name, (value, source) in found.items()
        }


KEYS: dict[str, _Default[Any]] = {
    name: value for name, value in vars(Defaults).items() if isinstance(value, _Default)
}


def read_defaults() -> dict[str, Any]:
    """What the user's file says, checked; empty where there is none.

    Raises:
        ValueError: It is no TOML, or has a key or a value that it must not have; the message names both.
        OSError: It cannot be read.
    """
    path = defaults_file()
    if path is None:
        return {}
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if FILE in os.environ:
            raise FileNotFoundError(
                f"the environment's {FILE}={str(path)!r}: there is no such file"
            ) from None
        return {}
    except OSError as error:
        raise OSError(f"{path}, the user's defaults, cannot be read: {error}") from error
    return {name: _of_file(path, name, value) for name, value in _parsed(path, text).items()}


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - only for those who have such a file

    try:
        return tomllib.loads(text.decode())
    except ValueError as error:
        raise ValueError(f"{path}, the user's defaults, is no TOML: {error}") from None


def _of_file(path: Path, name: str, value: Any) -> Any:
    if name not in KEYS:
        raise ValueError(f"{path}: {name} = {value!r}: {_unknown(name)}")
    return KEYS[name].checked(value, f"{path}: {name} = {value!r}")


def _unknown(name: str) -> str:
    near = get_close_matches(name, KEYS, 1)
    return f"no such default; there are {', '.join(KEYS)}" + (f" (meant {near[0]}?)" if near else "")


defaults = Defaults()


def set_defaults(**values: Any) -> None:
    """Set several of `dt.defaults` in this process: all of them, or with an error none.

    Args:
        values: By name, see `Defaults`.

    Raises:
        ValueError, TypeError: A value is none that it may be; there is no such default.

    Example:
        >>> set_defaults(verbosity=0, digits=3)
        >>> defaults.verbosity, defaults.digits
        (0, 3)
        >>> del defaults.verbosity, defaults.digits
    """
    for name in values:
        if name not in KEYS:
            raise TypeError(f"set_defaults({name}=...): {_unknown(name)}")
    checked = {
        name: KEYS[name].checked(value, f"set_defaults({name}={value!r})") for name, value in values.items()
    }
    defaults.given.update(checked)
