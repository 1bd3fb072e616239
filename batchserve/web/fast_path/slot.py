"""Where an item's row arrives."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Slot:
    """As much of a future as the batcher uses, which tells of a row at once.

    Of an exception it tells in the loop's next turn, as a future does: the scheduler fails items
    in the middle of its work.

    Args:
        on_told: called with it when there is a row, or an exception.
    """

    __slots__ = ("_error", "_is_done", "_on_told", "_row")

    def __init__(self, on_told: "Callable[[Slot], None]") -> None:
        self._on_told = on_told
        self._is_done = False
        self._row: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        return self._is_done

    def cancelled(self) -> bool:
        return isinstance(self._error, asyncio.CancelledError)

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._row

    def set_result(self, row: Any, /) -> None:
        self._is_done, self._row = True, row
        try:
            self._on_told(self)
        except Exception:
            # It is none of the other items' business.
            logger.exception("an answer could not be given; this is a bug")

    def set_exception(self, error: BaseException, /) -> None:
        self._is_done, self._error = True, error
        asyncio.get_running_loop().call_soon(self._on_told, self)

    def cancel(self) -> bool:
        if self._is_done:
            return False
        self._is_done, self._error = True, asyncio.CancelledError()
        return True
