"""Where the workers keep what they agree on."""

from pathlib import Path

from batchserve.stores.base import Store
from batchserve.stores.sqlite import SqliteStore

REDIS = ("redis://", "rediss://")


def open_store(state: str) -> Store:
    """Return the store that `server.state` names: a file's path, or Redis's address.

    Raises:
        StoreError: it cannot be used.
    """
    if state.startswith(REDIS):
        # Its library need not be there otherwise.
        from batchserve.stores.redis import RedisStore  # noqa: PLC0415

        return RedisStore(state)
    return SqliteStore(Path(state))
