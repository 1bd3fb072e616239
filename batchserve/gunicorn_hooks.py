"""What Gunicorn calls while a server lives: in its master, and in its workers."""

import gc
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

from batchserve.crew import CREW
from batchserve.lineage import LINEAGE
from batchserve.signals import STOP_SIGNALS

logger = logging.getLogger("gunicorn.error")

# Gunicorn's codes for a worker that cannot start, upon which the whole server ends.
BOOT_ERRORS = frozenset({3, 4})
RETRY_CODE = 1
# How long a worker that cannot start waits before Gunicorn may fork the next.
RETRY_S = 5


def when_ready(arbiter: Any) -> None:
    """In the master, once: tell a stop from a reload, and have workers share what it imported.

    To a worker that waits for its successor, the SIGTERM of a stop would look like another of
    those that Gunicorn sends it each second.
    """
    # A collection would write into every object, and so give each worker a copy of its own.
    gc.collect()
    gc.freeze()
    master = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        # A worker has this handler until it has its own.
        if os.getpid() == master:
            LINEAGE.announce_stop()
            _let_wait(arbiter)
        arbiter.signal(number, frame)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)


def on_reload(arbiter: Any) -> None:
    """In the master, before it forks the new workers."""
    LINEAGE.announce_generation()
    _let_not_wait(arbiter)


def _let_not_wait(arbiter: Any) -> None:
    """Have a reload return, although old workers stay until there are new ones.

    Gunicorn would wait for them as long as it does in a stop, deaf to all signals.
    """
    arbiter.batchserve_waits = arbiter.cfg.graceful_timeout
    arbiter.cfg.set("graceful_timeout", 0)


def _let_wait(arbiter: Any) -> None:
    """Have a stop wait for the workers, also after a reload."""
    seconds = getattr(arbiter, "batchserve_waits", arbiter.cfg.graceful_timeout)
    arbiter.cfg.set("graceful_timeout", seconds)


def pre_fork(_arbiter: Any, worker: Any) -> None:
    """In the master, before each worker."""
    worker.batchserve_place = CREW.reserve()


def child_exit(_arbiter: Any, worker: Any) -> None:
    """In the master, of a worker that is no more, however it ended."""
    CREW.release(worker.batchserve_place)


def post_fork(_arbiter: Any, worker: Any) -> None:
    """In each worker, first of all."""
    _watch_boot(worker)
    if worker.cfg.workers > 1:
        _share_connections(worker)
    LINEAGE.first = worker.age == 1
    # aiohttp's worker would leave at once, without a word to those that are connected.
    LINEAGE.max_requests, worker.max_requests = worker.max_requests, sys.maxsize


def worker_exit(_arbiter: Any, worker: Any) -> None:
    """In each worker, last of all: if it could not start, have only itself end, not the server.

    Before any worker was ready, there is nothing to keep, and the operator is there to read why:
    then the first one ends the server, and the others wait for that.
    """
    error = sys.exception()
    failed = isinstance(error, SystemExit) and error.code in BOOT_ERRORS
    # Gunicorn's master calls this as well, for a worker that it finds gone.
    if os.getpid() != worker.pid or not failed:
        return
    if LINEAGE.ever_ready:
        logger.error("the other workers go on; the next attempt is in %d s", RETRY_S)
    elif LINEAGE.claim_end():
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    stopped = signal.sigtimedwait(STOP_SIGNALS, RETRY_S)
    raise SystemExit(0 if stopped and not LINEAGE.ever_ready else RETRY_CODE)


def _share_connections(worker: Any) -> None:
    """Leave nothing for aiohttp's worker to listen on."""
    sockets, worker.sockets = [listener.sock for listener in worker.sockets], []
    for sock in sockets:
        # As the worker would have done.
        sock.set_inheritable(False)
    make_tls = partial(worker._create_ssl_context, worker.cfg)  # noqa: SLF001 - nobody else knows how
    CREW.listen_on(sockets, make_tls if worker.cfg.is_ssl else None)


def _watch_boot(worker: Any) -> None:
    """While a worker loads its models: tell the master that it lives, and obey a stop at once.

    Signals are blocked for all other threads, because uvloop loses those that come before its loop
    runs; `create_app` lets them through again. What this thread takes of them after that, the loop
    gets back: by then, clients may be connected.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def watch() -> None:
        # `booted` is true for a moment before aiohttp's worker begins to load: two looks tell.
        looks = 0
        # The file that `notify` touches is closed when a worker ends that could not start.
        with suppress(OSError, ValueError):
            while looks < 2:  # noqa: PLR2004
                looks = looks + 1 if worker.booted else 0
                worker.notify()
                stopped = None if worker.booted else signal.sigtimedwait(STOP_SIGNALS, 1)
                # No other thread runs in between, and none accepts before `booted` is true.
                if stopped and not worker.booted:
                    os._exit(0)
                elif stopped:
                    os.kill(os.getpid(), stopped.si_signo)

    threading.Thread(target=watch, name="boot", daemon=True).start()
