"""The store of several machines: Redis."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from batchserve.stores.base import Reading, StoreError

try:
    import redis
except ImportError:
    redis = None  # type: ignore[assignment]

PREFIX = "batchserve:"
DOCUMENT, WORKERS, REPORT = f"{PREFIX}wanted", f"{PREFIX}workers", f"{PREFIX}report:"
# A server that does not answer must not keep a worker, or Gunicorn's master, for long.
PATIENCE_S = 2.0


class RedisStore:
    """A `Store` in one of Redis's databases, where its keys begin with `batchserve:`.

    The document is a hash of revision and text; each report is a key that expires; a set names
    the workers, because looking for keys would look at all there are.

    Args:
        url: `redis://[[user]:password@]host[:port]/database`, or `rediss://` for TLS.

    Raises:
        StoreError: the library is missing, or the address is none.
    """

    def __init__(self, url: str) -> None:
        if redis is None:
            raise StoreError(
                "server.state: the library for Redis is not installed; install "
                "'batchserve[redis]', or name a file"
            )
        # The address may hold a password.
        self._shown = url.rpartition("@")[2] if "@" in url else url.partition("://")[2]
        with self._explained():
            self._redis: Any = redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=PATIENCE_S,
                socket_connect_timeout=PATIENCE_S,
            )

    def read(self, known: int = -1) -> Reading:
        with self._explained():
            revision, workers = (
                self._redis.pipeline().hget(DOCUMENT, "revision").smembers(WORKERS).execute()
            )
            found = self._reports(sorted(workers))
            if int(revision or 0) == known:
                return Reading(known, None, found)
            revision, document = self._redis.hmget(DOCUMENT, "revision", "document")
            return Reading(int(revision or 0), document or "", found)

    def replace(self, revision: int, document: str) -> bool:
        with self._explained(), self._redis.pipeline() as pipe:
            try:
                pipe.watch(DOCUMENT)
                if int(pipe.hget(DOCUMENT, "revision") or 0) != revision - 1:
                    return False
                pipe.multi()
                pipe.hset(DOCUMENT, mapping={"revision": revision, "document": document})
                pipe.execute()
            except redis.WatchError:
                return False
        return True

    def report(self, worker: str, report: str, ttl_s: float) -> None:
        with self._explained(), self._redis.pipeline() as pipe:
            pipe.set(f"{REPORT}{worker}", report, px=int(1000 * ttl_s))
            pipe.sadd(WORKERS, worker)
            pipe.execute()

    def forget(self, worker: str) -> None:
        with self._explained(), self._redis.pipeline() as pipe:
            pipe.delete(f"{REPORT}{worker}")
            pipe.srem(WORKERS, worker)
            pipe.execute()

    def close(self) -> None:
        self._redis.close()

    def _reports(self, workers: list[str]) -> dict[str, str]:
        if not workers:
            return {}
        texts = self._redis.mget([f"{REPORT}{worker}" for worker in workers])
        found = {
            worker: text for worker, text in zip(workers, texts, strict=True) if text is not None
        }
        if gone := set(workers) - found.keys():
            self._strike(gone)
        return found

    def _strike(self, gone: set[str]) -> None:
        """Take workers off the list whose reports have expired, unless one has just come back."""
        reports = [f"{REPORT}{worker}" for worker in gone]
        with self._redis.pipeline() as pipe, suppress(redis.WatchError):
            pipe.watch(*reports)
            if not pipe.exists(*reports):
                pipe.multi()
                pipe.srem(WORKERS, *gone)
                pipe.execute()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, ValueError) as error:
            raise StoreError(
                f"server.state: Redis at {self._shown} cannot be used: {error}"
            ) from error
