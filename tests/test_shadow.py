"""When a copy's turn has come: after a while in which nobody else was answered."""

import asyncio
from types import SimpleNamespace
from typing import Any

from batchserve.shadow import Copy, Shadow
from batchserve.testing import run_virtual

CANDIDATE: Any = SimpleNamespace(ready=True, max_batch_size=2)


class Noting(Shadow):
    """Notes when which copy is put to the candidate, and takes a second for each."""

    def __init__(self, repository: Any) -> None:
        nothing: Any = None
        super().__init__(repository, nothing, nothing, 1.0, quiet_s=0.05)
        self.noted: list[tuple[float, Any]] = []

    async def _run(self, copy: Copy) -> None:
        self.noted.append((round(asyncio.get_running_loop().time(), 3), copy.payloads))
        await asyncio.sleep(1)


def offered(shadow: Shadow, *payloads: Any) -> None:
    answer: Any = None
    shadow.offer(CANDIDATE, payloads, 0, answer)


def test_the_last_of_several_is_taken_once_it_has_been_quiet():
    async def main() -> None:
        shadow, began_s = Noting(SimpleNamespace(idle=True)), asyncio.get_running_loop().time()
        for number in range(100):
            offered(shadow, number)
            await asyncio.sleep(0.04)
        assert shadow.noted == []
        await asyncio.sleep(0.02)
        ((at_s, payloads),) = shadow.noted
        assert (round(at_s - began_s, 3), payloads) == (99 * 0.04 + 0.05, (99,))
        offered(shadow, "while another is computed")
        await asyncio.sleep(2)
        assert len(shadow.noted) == 1
        offered(shadow, "a", "b", "c")
        await asyncio.sleep(0.06)
        assert shadow.noted[1][1] == ("a", "b")
        await shadow.close()

    run_virtual(main)


def test_what_meets_others_is_dropped():
    async def main() -> None:
        repository = SimpleNamespace(idle=False)
        shadow = Noting(repository)
        offered(shadow, 1)
        await asyncio.sleep(0.06)
        repository.idle = True
        await asyncio.sleep(1)
        assert shadow.noted == []
        offered(shadow, 2)
        await shadow.close()
        await asyncio.sleep(1)
        assert shadow.noted == []

    run_virtual(main)
