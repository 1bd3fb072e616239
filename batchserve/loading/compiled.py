"""torch.compile, so that nobody waits for a compiler: all is compiled before the first request."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.loading.cache import cache_folder, only_one

# What torch has compiled, by the hash of the graph and of what it was compiled with.
CACHE = "TORCHINDUCTOR_CACHE_DIR"
# As torch is imported, or torchvision, it sets the variable itself, to a folder in /tmp.
STATED = os.environ.get(CACHE)
# Versions of a model share the code, and so torch's limit of graphs for it, which is 8.
GRAPHS = 1024


class Compiled(torch.nn.Module):
    """A module as it is, then compiled for whatever comes, and at last for nothing new any more.

    One graph serves all batch sizes from 2 on, unless torch finds that some need another.

    Args:
        module: on its device and in its precision; its weights stay what they are.
        freeze: have weights packed as the machine likes, once. That pays in half precision; in
            fp32 it was no faster, and what is frozen is not cached whole.
    """

    def __init__(self, module: torch.nn.Module, *, freeze: bool = False) -> None:
        super().__init__()
        self.module = module
        self._freeze = freeze
        # No module itself, or its weights would be here twice.
        self._call: Any = module.__call__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def compile_what_comes(self, *, fixed_shape: bool = False) -> None:
        """Compile when something new comes: another number of rows, or of threads.

        Args:
            fixed_shape: all items have one shape. What is compiled for it takes half as long to
                compile, and to load again, and is faster.
        """
        # A second to import.
        from torch._inductor import config as inductor  # noqa: PLC0415

        # Here, because settings are those of a thread's context.
        torch._dynamo.config.recompile_limit = GRAPHS  # noqa: SLF001
        torch._dynamo.config.accumulated_recompile_limit = GRAPHS  # noqa: SLF001
        compiling: Any = torch.compile(self.module, dynamic=None if fixed_shape else True)
        frozen = inductor.patch(freezing=self._freeze)(compiling.__call__)
        self._call = _for_any_number(frozen) if fixed_shape else frozen

    def run_as_it_is(self) -> None:
        """Use nothing of what was compiled."""
        self._call = self.module.__call__

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Compile nothing meanwhile: the compiler is one thread's at a time."""
        before = self._call
        self.settle()
        try:
            yield
        finally:
            self._call = before

    def settle(self) -> None:
        """Compile nothing more: what is new runs as it is, for compiling may take a minute."""
        # As torch.compiler.set_stance, but for this module and thread only.
        self._call = torch._dynamo.run(self.module).__call__  # noqa: SLF001


def _for_any_number(call: Callable[..., Any]) -> Callable[..., Any]:
    """Have a graph for all numbers of rows where torch would first make one for this number."""

    def marked(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor) and value.ndim:
                torch._dynamo.maybe_mark_dynamic(value, 0)  # noqa: SLF001
        return call(*args, **kwargs)

    return marked


def compiled(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> Compiled:
    """Have a module compiled, once it is told to.

    Args:
        module: on the device and in the dtype.
        device: where it runs.
        dtype: of its weights.

    Raises:
        LoadError: there is no C++ compiler, or no place for what it makes.
    """
    _check_compiler()
    if STATED is None:
        os.environ[CACHE] = str(cache_folder("inductor"))
    return Compiled(module, freeze=device.type == "cpu" and dtype != torch.float32)


@contextmanager
def one_compiles(config: ModelConfig) -> Iterator[None]:
    """Let one worker compile a model first, if nobody ever has; the others find what it made."""
    if not config.compile:
        yield
        return
    described = f"{config.model_dump_json()} {torch.__version__}"
    done = cache_folder("inductor") / f"{sha256(described.encode()).hexdigest()[:16]}.done"
    with ExitStack() as alone:
        if not done.exists():
            alone.enter_context(only_one(done, f"compiling {config.name}"))
            if done.exists():
                alone.close()
        yield
        done.touch()


def stop_compiling() -> None:
    """After an interruption, do not begin what the compiler's threads still have before them."""
    from torch._inductor.async_compile import AsyncCompile  # noqa: PLC0415 - slow to load

    if AsyncCompile.pool.cache_info().currsize:
        AsyncCompile.pool().shutdown(wait=False, cancel_futures=True)
        AsyncCompile.pool.cache_clear()


# What does not change what is compiled.
BESIDE = {
    "name",
    "version",
    "labels",
    "slo_ms",
    "batching",
    "compile",
    "autotune",
    "channels_last",
    "cuda_graphs",
    "parallel_batches",
}


def remember_compiled(config: ModelConfig, threads: int, *, channels_last: bool) -> None:
    """Note that a model is in the cache, as it is run so."""
    _noted(config, threads, channels_last=channels_last).touch()


def is_compiled(config: ModelConfig, threads: int, *, channels_last: bool) -> bool:
    """Whether a model was compiled here before, to be run so, and has not changed since."""
    return _noted(config, threads, channels_last=channels_last).exists()


def _noted(config: ModelConfig, threads: int, *, channels_last: bool) -> Path:
    files = [Path(name) for name in (config.source, config.weights) if name is not None]
    changed = [file.stat().st_mtime_ns for file in files if file.is_file()]
    told = [config.model_dump_json(exclude=BESIDE), changed, threads, channels_last]
    digest = sha256(f"{told} {torch.__version__}".encode()).hexdigest()[:16]
    return cache_folder("inductor") / f"{digest}.compiled"


def has_compiler() -> bool:
    """Whether there is what torch.compile needs."""
    return shutil.which(_compiler()) is not None


def _check_compiler() -> None:
    if not has_compiler():
        raise LoadError(
            f"compile: true needs a C++ compiler, and there is no {_compiler()}; install one "
            f"(Debian: apt-get install g++), name another in the environment variable CXX, or "
            f"leave it out"
        )


def _compiler() -> str:
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
