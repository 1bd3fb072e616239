"""A device when something went wrong: is it full, is it gone, and giving its memory back."""

import gc
import threading

import torch

from batchserve.memory import release_freed

# What torch raises as a plain RuntimeError: its allocator on the CPU, CUDA and MPS outside of its
# own allocator, and cuBLAS where it finds no room for its workspace.
OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

# Held while CUDA records what a thread does (see `cuda_graph.py`): torch allows one recording at a
# time in a process, and meanwhile nobody may wait for the whole device, as giving memory back does.
RECORDING = threading.Lock()


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this says that the memory, of the device or of the host, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def give_memory_back(device: torch.device) -> None:
    """Free what only cycles still hold, and let go of what torch and tcmalloc keep for later."""
    gc.collect()
    release_freed()
    if device.type != "cpu":
        with RECORDING:
            torch.get_device_module(device).empty_cache()


def answers(device: torch.device) -> bool:
    """Whether a trivial operation on the device works; a CPU always answers.

    After some errors, such as an illegal access, CUDA fails at everything until the process ends.
    """
    if device.type == "cpu":
        return True
    try:
        # item() waits for the device.
        (torch.ones(1, device=device) + 1).item()
    except Exception as error:  # noqa: BLE001 - whatever it is, the device did not answer
        return ran_out_of_memory(error)
    return True
