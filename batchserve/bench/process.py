"""A process that sends, as `processes.py` starts it; it tells how far it is through a pipe."""

import asyncio
import gc
import signal
import sys
from multiprocessing.connection import Connection

import uvloop

from batchserve.bench.generator import Generator, Job, Progress
from batchserve.bench.sleeper import Sleeper

TELL_S = 0.25


async def send(pipe: Connection) -> None:
    """Do the job that comes through the pipe; SIGTERM ends it early."""
    pipe.send(Progress())  # as a sign of life
    job: Job = pipe.recv()
    with Sleeper() as sleeper:
        generator = Generator(job, sleeper.sleep)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, generator.stop)
        telling = asyncio.create_task(_tell(pipe, generator))
        tally = await generator.run()
        telling.cancel()
    pipe.send(tally)


async def _tell(pipe: Connection, generator: Generator) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        try:
            pipe.send(generator.progress())
        except BrokenPipeError:  # nobody is left who wants to know
            generator.stop()
            return


def main() -> None:
    # A collection would hold up what is timed, and there is nothing to collect.
    gc.disable()
    with Connection(int(sys.argv[1])) as pipe:
        try:
            uvloop.run(send(pipe))
        except (BrokenPipeError, EOFError):
            sys.exit(1)


if __name__ == "__main__":
    main()
