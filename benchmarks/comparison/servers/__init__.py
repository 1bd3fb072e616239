"""Everybody in the comparison, in the order of the tables."""

from comparison.servers import (
    batchserve,
    bentoml,
    litserve,
    mosec,
    python_ways,
    ray,
    torchserve,
    triton,
)
from comparison.servers.base import Job, Server

SERVERS: dict[str, Server] = {
    server.name: server
    for of_one in (
        batchserve.SERVERS,
        mosec.SERVERS,
        triton.SERVERS,
        torchserve.SERVERS,
        litserve.SERVERS,
        bentoml.SERVERS,
        ray.SERVERS,
        python_ways.SERVERS,
    )
    for server in of_one
}

__all__ = ["SERVERS", "Job", "Server"]
