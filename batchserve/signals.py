"""The signals that stop a worker, held back while it starts."""

import signal

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def let_through() -> None:
    """Deliver the stop signals to this thread's loop again, those that are pending first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
