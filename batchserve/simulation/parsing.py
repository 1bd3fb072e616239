"""What stands on the command line, as values; errors name the option, the value and the fix."""

from collections.abc import Mapping

from batchserve.batch import Priority
from batchserve.errors import ConfigError
from batchserve.simulation.traffic import Bursts


def forward_seconds(text: str) -> dict[int, float]:
    """Read `1:30,8:200`: milliseconds by batch size."""
    pairs = _pairs("--forward-ms", text, "1:30,8:200, milliseconds by batch size")
    sizes = {int(size): ms / 1000 for size, ms in pairs.items()}
    if min(sizes) < 1 or min(sizes.values()) <= 0:
        raise ConfigError(f"--forward-ms {text}: sizes begin with 1, and times are above 0")
    return dict(sorted(sizes.items()))


def slowdowns(text: str) -> list[tuple[float, float]]:
    """Read `10:2,20:1`: from which second on passes take how many times as long."""
    pairs = _pairs("--slowdown", text, "10:2,20:1, a factor by the second from which it holds")
    return sorted((float(second), factor) for second, factor in pairs.items())


def items_mix(text: str) -> dict[int, float]:
    """Read `4`, or `1:0.9,8:0.1`: how many inputs, each with its weight."""
    pairs = _pairs("--items", text if ":" in text else f"{text}:1", "4, or 1:0.9,8:0.1")
    if any(not count.isdecimal() or int(count) < 1 for count in pairs):
        raise ConfigError(f"--items {text}: a request has 1 input or more")
    return {int(count): weight for count, weight in pairs.items()}


def priorities_mix(text: str) -> dict[Priority, float]:
    """Read `normal`, or `interactive:0.2,bulk:0.8`: each with its weight."""
    names = ", ".join(priority.name.lower() for priority in Priority)
    pairs = _pairs("--priorities", text if ":" in text else f"{text}:1", f"names of {names}")
    try:
        return {Priority[name.upper()]: weight for name, weight in pairs.items()}
    except KeyError as error:
        raise ConfigError(f"--priorities {text}: {error} is none of {names}") from None


def bursts(text: str) -> Bursts:
    """Read `3:0.2:5`: times the mean rate, for what share of the time, seconds from one to next."""
    try:
        factor, share, cycle_s = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"--burst {text}: write FACTOR:SHARE:SECONDS, as in 3:0.2:5") from None
    if not (factor >= 1 and 0 < share < 1 and factor * share <= 1 and cycle_s > 0):
        raise ConfigError(
            f"--burst {text}: FACTOR is 1 or more, SHARE between 0 and 1, and FACTOR × SHARE at "
            f"most 1, or more would be sent in bursts than altogether"
        )
    return Bursts(factor, share, cycle_s)


def rate(text: str, capacity: float) -> float:
    """Read `50`, requests per second, or `0.8x`, a multiple of the capacity."""
    number, is_multiple = (text[:-1], True) if text.endswith("x") else (text, False)
    try:
        stated = float(number)
    except ValueError:
        stated = 0.0
    if not 0 < stated < float("inf"):
        raise ConfigError(f"--rate {text}: write requests/s, as in 50, or a multiple, as in 0.8x")
    return stated * capacity if is_multiple else stated


def _pairs(option: str, text: str, example: str) -> Mapping[str, float]:
    try:
        return {
            name.strip(): float(value)
            for name, _, value in (pair.partition(":") for pair in text.split(","))
        }
    except ValueError:
        raise ConfigError(f"{option} {text}: write {example}") from None
