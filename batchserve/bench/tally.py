"""What became of requests: an entry for each, in columns."""

from array import array

# Of an answer that is none: enough to read what it says.
MOST_KEPT = 64 * 1024


class Tally:
    """What one process noted of its requests.

    Attributes:
        meant_s: when each was meant to be sent, in seconds from the begin.
        sent_s: when it was handed to a connection, or began to wait for one.
        done_s: when its answer was complete, or it failed.
        outcomes: what became of it, as a place in `names`.
        batch_sizes: what X-Batch-Size said; 0: nothing.
        timings: what Server-Timing said.
        names: of outcomes: a status, a status with the error's code, or what broke.
        messages: the first body of each outcome that is no success.
        waited: how many found all connections busy.
        connected: how many connections were made.
        busy: the share of one core that the process used while it sent.
    """

    def __init__(self) -> None:
        self.meant_s = array("d")
        self.sent_s = array("d")
        self.done_s = array("d")
        self.outcomes = array("H")
        self.batch_sizes = array("L")
        self.timings: list[bytes] = []
        self.names: list[str] = []
        self.messages: dict[str, bytes] = {}
        self.waited = 0
        self.connected = 0
        self.busy = 0.0
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.done_s)

    def note(
        self,
        meant_s: float,
        sent_s: float,
        done_s: float,
        name: str,
        batch_size: int = 0,
        timing: bytes = b"",
    ) -> None:
        """Add a request; times are in seconds from the begin."""
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = len(self.names)
            self.names.append(name)
        self.meant_s.append(meant_s)
        self.sent_s.append(sent_s)
        self.done_s.append(done_s)
        self.outcomes.append(place)
        self.batch_sizes.append(batch_size)
        self.timings.append(timing)
