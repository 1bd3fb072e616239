"""What people do without a model server, and how fast it could be without a model."""

from comparison.servers.base import CORES, Job, Server, gunicorn
from comparison.services.bare import ANSWER

AIOHTTP = ("--worker-class", "aiohttp.GunicornUVLoopWebWorker")


class Bare(Server):
    """An aiohttp handler without a model, which answers as long an answer."""

    package = "aiohttp"
    kind = "yardstick"
    checked = False

    def __init__(self, name: str, title: str, processes: int) -> None:
        self.name, self.title, self.processes = name, title, processes

    def command(self, job: Job) -> list[str]:
        workers = ("--workers", str(self.processes))
        return gunicorn(job, "comparison.services.bare:create_app", *AIOHTTP, *workers)

    def environment(self, job: Job) -> dict[str, str]:
        return {**super().environment(job), ANSWER: str(job.folder.parent / "answer.json")}


class Handler(Server):
    """A forward per request in an aiohttp handler; a process for each core, as it blocks."""

    name, title = "handler", "aiohttp, a forward per request"
    package = "aiohttp"
    processes = CORES

    def command(self, job: Job) -> list[str]:
        workers = ("--workers", str(self.processes))
        return gunicorn(job, "comparison.services.handler:create_app", *AIOHTTP, *workers)


class Flask(Server):
    """Flask as its manual deploys it: Gunicorn's synchronous workers, one for each core."""

    name, title = "flask", "Flask, Gunicorn sync workers"
    peer, package = "flask", "flask"
    processes = CORES

    def command(self, job: Job) -> list[str]:
        return gunicorn(job, "comparison.services.flask:app", "--workers", str(self.processes))


SERVERS: list[Server] = [
    Bare("bare", "bare aiohttp handler, no model", 1),
    Bare("bare-2", "bare aiohttp handler, no model, 2 processes", 2),
    Handler(),
    Flask(),
]
