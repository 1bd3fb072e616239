"""torch.compile, so that nobody waits for a compiler: all is compiled before the first request."""

import itertools
import logging
import os
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, cast

import torch

from batchserve.config import ModelConfig
from batchserve.cores import usable_cores
from batchserve.errors import LoadError
from batchserve.loading.cache import cache_folder, only_one
from batchserve.loading.memory_format import has_convolutions

logger = logging.getLogger(__name__)

# What torch has compiled, by the hash of the graph and of what it was compiled with.
CACHE = "TORCHINDUCTOR_CACHE_DIR"
# As torch is imported, or torchvision, it sets the variable itself, to a folder in /tmp.
STATED = os.environ.get(CACHE)
# torch's limit for a piece of code is 8, and behind a graph break versions of a model share theirs.
GRAPHS = 1024
NUMBERS = itertools.count()

# Operations called from C++, with any number of threads. Assertions would name functions by where
# they lie in memory, and the number of threads decides which loops are parallel: it would be other
# code in each start, which is not in the cache.
WITHOUT_PYTHON = {
    "cpp_wrapper": True,
    "size_asserts": False,
    "alignment_asserts": False,
    "cpp.dynamic_threads": True,
    "cpp.threads": max(2, usable_cores()),
}
# What such code says of whatever went wrong, and no more.
FAILED = "API call failed"


class Compiled(torch.nn.Module):
    """A module as it is, then compiled for whatever comes, and at last for nothing new any more.

    One graph serves all batch sizes from 2 on, unless torch finds that some need another, or a size
    gets one of its own.

    Args:
        module: on its device and in its precision; its weights stay what they are.
        freeze: have weights packed as the machine likes, once for each graph. That pays in half
            precision and for convolutions; a perceptron and a transformer in fp32 were no faster,
            and what is frozen is not cached whole.
        without_python: have a graph's operations called from C++, where that can be compiled, with
            any number of threads. A pass then holds the GIL at its beginning and end only. Not for
            modules that look something up by numbers of a client: one that is out of range would
            end the process (https://github.com/pytorch/pytorch/issues/195402).
    """

    def __init__(
        self, module: torch.nn.Module, *, freeze: bool = False, without_python: bool = False
    ) -> None:
        super().__init__()
        self.module = module
        self._freeze = freeze
        self._without_python = without_python
        # Some of the code may be in C++ although other code could not be.
        self._cpp_compiles = without_python
        # No module itself, or its weights would be here twice.
        self._call: Any = module.__call__
        self._whole = _with_code_of_its_own(module)
        self._apart: dict[int, _Apart] = {}
        self._is_settled = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        apart = self._apart.get(_rows(args, kwargs)) if self._apart else None
        call = self._call
        if apart is not None:
            call = apart.settled if self._is_settled else apart.compiling
        try:
            return call(*args, **kwargs)
        except RuntimeError as error:
            if not (self._without_python and FAILED in str(error)):
                raise
        # It works, or says why not, as that the memory does not suffice.
        return self.module(*args, **kwargs)

    @property
    def packs_in_each_pass(self) -> bool:
        """Whether a graph for any number of rows may do in each pass what others do once.

        Of frozen weights, those of convolutions are packed for a size of input
        (torch/_inductor/fx_passes/mkldnn_fusion.py).
        """
        return self._freeze and has_convolutions(self.module)

    def compile_what_comes(self, *, fixed_shape: bool = False) -> None:
        """Compile when something new comes, as another number of rows.

        Args:
            fixed_shape: all items have one shape. What is compiled for it takes half as long to
                compile, and to load again, and is faster.
        """
        # Here, because settings are those of a thread's context.
        torch._dynamo.config.recompile_limit = GRAPHS  # noqa: SLF001
        torch._dynamo.config.accumulated_recompile_limit = GRAPHS  # noqa: SLF001
        compiling = self._compiling(self._whole, dynamic=None if fixed_shape else True)
        self._call = _for_any_number(compiling) if fixed_shape else compiling
        self._is_settled = False

    def compile_apart(self, rows: int) -> None:
        """Compile batches of so many rows for themselves, once one comes."""
        own = _with_code_of_its_own(self.module)
        compiling = self._compiling(own, dynamic=False)
        self._apart[rows] = _Apart(own.__code__, compiling, torch._dynamo.run(own))  # noqa: SLF001

    def compile_together(self, rows: int) -> None:
        """Have batches of so many rows share their code with larger ones again."""
        _forget(self._apart.pop(rows).code)

    def run_as_it_is(self) -> None:
        """Use nothing of what was compiled."""
        self._call = self.module.__call__
        self._apart.clear()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Compile nothing meanwhile: the compiler is one thread's at a time."""
        before = self._call, self._is_settled
        self.settle()
        try:
            yield
        finally:
            self._call, self._is_settled = before

    def settle(self) -> None:
        """Compile nothing more: what is new runs as it is, for compiling may take a minute."""
        # As torch.compiler.set_stance, but for this module and thread only.
        self._call = torch._dynamo.run(self._whole)  # noqa: SLF001
        self._is_settled = True

    def _compiling(self, called: FunctionType, *, dynamic: bool | None) -> Callable[..., Any]:
        # A second to import.
        from torch._dynamo.exc import BackendCompilerFailed  # noqa: PLC0415
        from torch._inductor import config as inductor  # noqa: PLC0415

        _name_constants_by_name()
        weakref.finalize(self, _forget, called.__code__).atexit = False
        settings = {"freezing": self._freeze}
        compiling: Any = torch.compile(called, dynamic=dynamic)
        in_python: Callable[..., Any] = inductor.patch(settings)(compiling.__call__)
        if not self._without_python:
            return in_python
        options: Any = {"guard_filter_fn": _but_for_threads}
        compiling = torch.compile(called, dynamic=dynamic, options=options)
        without = inductor.patch({**settings, **WITHOUT_PYTHON})(compiling.__call__)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._cpp_compiles:
                try:
                    return without(*args, **kwargs)
                except BackendCompilerFailed as error:
                    reason = str(error).partition("\n")[0]
                    logger.info("compiled without C++ in place of Python: %s", reason)
                    self._cpp_compiles = False
            return in_python(*args, **kwargs)

        return call


@dataclass(frozen=True)
class _Apart:
    """What answers batches of one size, before and after all is compiled."""

    code: CodeType
    compiling: Callable[..., Any]
    settled: Callable[..., Any]


def _name_constants_by_name() -> None:
    """Have the same C++ code in each start, so that it is found in the cache.

    Frozen weights are arguments of what is made of it, but torch writes where each one lies in
    memory into a comment, because other code keeps them (CppWrapperCpu.write_constant).
    """
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu  # noqa: PLC0415

    def write_constant(self: Any, name: str, _hashed: str) -> None:
        self.header.writeline(f"// {name}")

    CppWrapperCpu.write_constant = write_constant  # type: ignore[method-assign]


def _but_for_threads(guards: Sequence[Any]) -> list[bool]:
    """Keep what torch checks before it uses a graph, but not the state that threads are part of.

    The rest of that state, as whether gradients are taken, is the same in every pass.
    """
    return [guard.guard_type != "GLOBAL_STATE" for guard in guards]


def _with_code_of_its_own(module: torch.nn.Module) -> FunctionType:
    """Return what calls a module.

    torch keeps graphs by the code that they were made of, and by its name what shapes it has seen.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return module(*args, **kwargs)

    call.__code__ = call.__code__.replace(co_name=f"call_{next(NUMBERS)}")
    return cast("FunctionType", call)


def _forget(code: CodeType) -> None:
    """Let go of the graphs made of some code, and of the weights that they have packed."""
    from torch._C._dynamo.eval_frame import reset_code  # noqa: PLC0415
    from torch._inductor.codecache import PyCodeCache  # noqa: PLC0415

    reset_code(code)
    # A list of all there ever were, for clearing the folder. What is in use is kept by its users.
    for made in PyCodeCache.modules.copy():
        if any(isinstance(value, torch.Tensor) for value in vars(made).values()):
            sys.modules.pop(made.__name__, None)
            PyCodeCache.modules.remove(made)


def _rows(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
    return next((tensor.shape[0] for tensor in tensors if tensor.ndim), 0)


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
    on_cpu, convolves = device.type == "cpu", has_convolutions(module)
    return Compiled(
        module,
        freeze=on_cpu and (convolves or dtype != torch.float32),
        without_python=on_cpu and convolves and not _looks_up(module) and _writes_cpp_well(),
    )


def _writes_cpp_well() -> bool:
    """Whether torch writes the same code in C++ each time, with all that it uses declared.

    Before 2.14 it told arrays apart by where something short-lived lay in memory
    (https://github.com/pytorch/pytorch/pull/178147).
    """
    return torch.__version__ >= "2.14"


def _looks_up(module: torch.nn.Module) -> bool:
    tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    return any(isinstance(part, tables) for part in module.modules())


@contextmanager
def one_compiles(config: ModelConfig) -> Iterator[None]:
    """Let one worker compile a model first, if nobody ever has; the others find what it made."""
    if not config.compile:
        yield
        return
    described = f"{config.model_dump_json()} {torch.__version__} {WITHOUT_PYTHON}"
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
    told = [config.model_dump_json(exclude=BESIDE), changed, threads, channels_last, WITHOUT_PYTHON]
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
