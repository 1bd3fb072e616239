"""Ray Serve with @serve.batch."""

from comparison.servers.base import Batching, Job, Server, module


class RayServe(Server):
    """One replica, without FastAPI, dashboard and access log."""

    name, title = "ray", "Ray Serve"
    package = peer = "ray"

    def batching(self, workload: str) -> Batching:
        return Batching(16, 1) if workload == "image" else Batching(64, 1)

    def environment(self, job: Job) -> dict[str, str]:
        # Logs less on the way, and runs the model in the loop that the request came to.
        own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
        return {**super().environment(job), **own}

    def command(self, job: Job) -> list[str]:
        return module(job, "ray")


SERVERS: list[Server] = [RayServe()]
