"""Where an item's row arrives."""

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Slot:
    """As much of a future as the batcher uses, which tells at once and not in the loop's next turn.

    Args:
        on_told: called with it when there is a row, or an exception. It must not raise.
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
        self._on_told(self)

    def set_exception(self, error: BaseException, /) -> None:
        self._is_done, self._error = True, error
        self._on_told(self)

    def cancel(self) -> bool:
        if self._is_done:
            return False
        self._is_done, self._error = True, asyncio.CancelledError()
        return True
