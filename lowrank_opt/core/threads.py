"""Number of threads, and the time that compilation takes."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["compile_clock", "parallel_region", "thread_limit"]

# Held around kernels compiled with parallel=True: numba's fallback threading layer, the only one
# where neither OpenMP nor TBB is found, ends the process when two threads enter at once.
parallel_region = threading.Lock()


@contextlib.contextmanager
def thread_limit(n_threads: int | None, blas: int | None = None) -> Iterator[None]:
    """Limit numba's and BLAS's threads inside a ``with`` block; restore them afterwards.

    Parameters
    ----------
    n_threads : int or None
        Upper limit; more than the machine (or ``NUMBA_NUM_THREADS``) offers means all of them.
        ``None`` changes nothing.
    blas : int or None, default=None
        Limit for BLAS, if it is to be another one. BLAS is limited from the main thread only.

    Yields
    ------
    None
        The block runs with at most `n_threads` threads.
    """
    blas = n_threads if blas is None else blas
    with contextlib.ExitStack() as stack:
        if n_threads is not None:
            import numba

            # numba's limit belongs to the calling thread.
            stack.callback(numba.set_num_threads, numba.get_num_threads())
            numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
        if blas is not None:
            stack.enter_context(_blas_limits.of(blas))
        yield


class _BlasLimits:
    """The BLAS limit belongs to the process, and runs in several threads overlap at will.

    The limit that was set last and is still wanted is in force; the original numbers come back
    when the last run ends. (Nested blocks of threadpoolctl, left in another order than entered,
    would restore each other's limits.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: list[tuple[object, int]] = []
        self._outermost: Any = None
        self._controller: Any = None
        self._modules = 0

    def _limit(self, n_threads: int) -> Any:
        """Limit BLAS; the libraries are looked up anew only when modules were imported since.

        To look them up takes a millisecond, as long as a small problem.
        """
        from threadpoolctl import ThreadpoolController

        if self._controller is None or self._modules != len(sys.modules):
            self._controller, self._modules = ThreadpoolController(), len(sys.modules)
        return self._controller.limit(limits=n_threads, user_api="blas")

    @contextlib.contextmanager
    def of(self, n_threads: int) -> Iterator[None]:
        # Some BLAS keep a number for each thread: what a worker thread sets has no effect, and
        # what it restores does not reach the main thread, which would stay limited.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        entry = (object(), n_threads)
        with self._lock:
            limits = self._limit(n_threads)
            if not self._wanted:
                self._outermost = limits
            self._wanted.append(entry)
        try:
            yield
        finally:
            with self._lock:
                self._wanted.remove(entry)
                if self._wanted:
                    self._limit(self._wanted[-1][1])
                else:
                    self._outermost.restore_original_limits()


_blas_limits = _BlasLimits()


class _CompileClock:
    """Adds up the seconds that numba compiles, in the threads that ask for it."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._installed = False

    def install(self) -> None:
        """Listen to numba's compile events, once numba is there; never imports it."""
        if self._installed or "numba" not in sys.modules:
            return
        from numba.core import event

        clock = self

        class Listener(event.Listener):
            def on_start(self, event: Any) -> None:
                depth = getattr(clock._local, "depth", 0)
                if depth == 0:
                    clock._local.began = time.perf_counter()
                clock._local.depth = depth + 1

            def on_end(self, event: Any) -> None:
                clock._local.depth = getattr(clock._local, "depth", 1) - 1
                if clock._local.depth == 0:
                    elapsed = time.perf_counter() - clock._local.began
                    clock._local.total = getattr(clock._local, "total", 0.0) + elapsed

        with self._lock:
            if not self._installed:
                event.register("numba:compile", Listener())
                self._installed = True

    def read(self) -> float:
        """Seconds of compilation in this thread so far."""
        self.install()
        return getattr(self._local, "total", 0.0)


compile_clock = _CompileClock()
