"""How a worker process gets its memory from the system."""

import os

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def use_huge_pages() -> None:
    """Let torch ask for huge pages, unless the environment says otherwise.

    Each layer's output is a block that the allocator returns to the system and gets anew, and the
    kernel clears it page by page: on the CPU that can take as long as the computing, the longer the
    larger the batch. With huge pages there is little of it. Must be called before torch is
    imported, which then reads the variable (https://github.com/pytorch/pytorch/pull/107697).
    """
    os.environ.setdefault(HUGE_PAGES, "1")
