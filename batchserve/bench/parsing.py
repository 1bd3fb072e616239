"""What stands on the command line, as values; errors name the option, the value and the fix."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchserve.bench.schedule import Arrivals
from batchserve.errors import ConfigError


@dataclass(frozen=True)
class Rate:
    """Requests in a second, or a multiple of the capacity."""

    number: float
    is_multiple: bool

    def of(self, capacity: float) -> float:
        return self.number * capacity if self.is_multiple else self.number


def clients(text: str) -> list[int]:
    """Read `1,16,64`."""
    counts = [part.strip() for part in text.split(",")]
    if not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise ConfigError(f"--clients {text}: write numbers of 1 or more, as in 1,16,64")
    return [int(count) for count in counts]


def rates(text: str) -> list[Rate]:
    """Read `50,100` or `0.5x,0.9x,1.5x`."""
    found = []
    for part in text.split(","):
        number, is_multiple = part.strip().removesuffix("x"), part.strip().endswith("x")
        try:
            stated = float(number)
        except ValueError:
            stated = 0.0
        if not 0 < stated < float("inf"):
            raise ConfigError(
                f"--rate {text}: write requests/s, as in 50,100, or multiples of the capacity, "
                f"as in 0.5x,0.9x,1.5x"
            )
        found.append(Rate(stated, is_multiple))
    return found


def headers(lines: Sequence[str]) -> dict[str, str]:
    """Read `Name: value`."""
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or any(sign in line for sign in "\r\n"):
            raise ConfigError(f"--header {line}: write NAME: VALUE")
        try:
            line.encode("latin-1")
        except UnicodeEncodeError:
            raise ConfigError(f"--header {line}: write it in Latin-1, as HTTP needs it") from None
        found[name.strip().lower()] = value.strip()
    return found


def method(text: str) -> str:
    """Read a method of HTTP."""
    name = text.upper()
    if not name.isalpha() or name in ("HEAD", "CONNECT"):
        raise ConfigError(
            f"--method {text}: write POST, GET or another one whose answers have a body"
        )
    return name


def arrivals_of(text: str) -> Arrivals:
    """Read `poisson` or `constant`."""
    try:
        return Arrivals(text)
    except ValueError:
        raise ConfigError(f"--arrivals {text}: write {' or '.join(Arrivals)}") from None


def positive(option: str, ms: float | None) -> float | None:
    """Read milliseconds, which are above 0."""
    if ms is not None and not 0 < ms < float("inf"):
        raise ConfigError(f"{option} {ms:g}: write milliseconds above 0")
    return ms
