"""llama.cpp's worker threads for one context. llama-cpp-python does not wrap these calls.

A build without OpenMP makes and ends its workers at every decode unless the context has some of its own. A build with
OpenMP takes the team of the thread that decodes, which is a thread of llama.cpp's own as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from corella_edge_runtime.llm.llama.library import C

_MOST = 512  # GGML_MAX_N_THREADS


class _Params(ctypes.Structure):
    """struct ggml_threadpool_params of ggml.h."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MOST),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


def attach(context: Any, threads: int) -> Callable[[], None]:
    """Give a context workers of its own; returns what ends them, to be called after the context is freed.

    Call it in the thread that decodes: the workers run on the cores that it is bound to. A llama.cpp that knows no such
    pools, or another form of them, goes on as it does by itself.
    """
    new, free = _call("ggml_threadpool_new"), _call("ggml_threadpool_free")
    params = _params(threads)
    pool = new(ctypes.byref(params)) if params and new and free else None
    if not pool or not free:
        return lambda: None
    join = C._lib.llama_attach_threadpool
    join.argtypes, join.restype = [ctypes.c_void_p] * 3, None
    join(context, pool, pool)
    end = free
    return lambda: end(pool)


def _params(threads: int) -> _Params | None:
    """The defaults, but idle workers sleep: awake they would take the cores of the CRM for as long as a decode lasts.

    None if llama.cpp does not fill the struct as this release knows it.
    """
    fill = getattr(C._lib, "ggml_threadpool_params_init", None)
    if fill is None or not hasattr(C._lib, "llama_attach_threadpool"):
        return None
    room = ctypes.create_string_buffer(4 * ctypes.sizeof(_Params))
    params = _Params.from_buffer(room)
    fill.argtypes, fill.restype = [ctypes.c_void_p, ctypes.c_int], None
    fill(ctypes.addressof(params), threads)
    known = params.n_threads == threads and params.prio == 0 and params.poll <= 100 and not params.paused
    params.poll = 0
    return params if known and not any(params.cpumask) else None


def _call(name: str) -> Callable[..., Any] | None:
    """A function of the CPU backend in use, which may be a library of its own."""
    lib = C._lib
    try:
        find, device_of, registry_of = (
            lib.ggml_backend_reg_get_proc_address, lib.ggml_backend_dev_by_type, lib.ggml_backend_dev_backend_reg,
        )  # fmt: skip
    except AttributeError:
        return None
    device_of.argtypes, device_of.restype = [ctypes.c_int], ctypes.c_void_p
    registry_of.argtypes, registry_of.restype = [ctypes.c_void_p], ctypes.c_void_p
    find.argtypes, find.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_void_p
    device = device_of(0)  # GGML_BACKEND_DEVICE_TYPE_CPU
    address = find(registry_of(device), name.encode()) if device else None
    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address) if address else None
