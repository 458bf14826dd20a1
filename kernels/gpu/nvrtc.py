"""CUDA C++ compiled as the program runs: NVRTC through ctypes, results kept on disk, launches through the CUDA driver.

Standard library only; torch brings NVRTC with its CUDA builds and the context to launch in.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NAMES = {"win32": ("nvrtc64_*.dll",)}.get(sys.platform, ("libnvrtc.so.*", "libnvrtc-*.so.*", "libnvrtc.so"))
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class CompilerError(RuntimeError):
    """There is no NVRTC, or it refused the source; the message holds its log."""


@functools.cache
def _library() -> ctypes.CDLL:
    for path in _candidates():
        try:
            for needed in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")) if os.sep in path else ():
                ctypes.CDLL(str(needed))  # NVRTC opens it by name, which works once it is loaded
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise CompilerError(
        "Expected NVRTC from torch's CUDA build, the nvidia-cuda-nvrtc package or a CUDA toolkit, but got none."
    )


def _candidates() -> list[str]:
    """Where NVRTC may lie: beside torch, in NVIDIA's wheels, in a toolkit, on the loader's path."""
    from importlib.util import find_spec

    folders: list[Path] = []
    for package in ("torch", "nvidia"):
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            folders += [Path(place) / "lib", *sorted(Path(place).glob("*/lib")), *sorted(Path(place).glob("*/bin"))]
    toolkit = os.environ.get("CUDA_PATH") or os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    folders += [Path(toolkit) / "lib64", Path(toolkit) / "bin"]
    found = [str(f) for folder in folders for name in _NAMES for f in sorted(folder.glob(name), reverse=True)]
    found = [f for f in found if "builtins" not in f and ".alt." not in f]
    return found + [f"libnvrtc.so.{n}" for n in (13, 12)]


@functools.cache
def available() -> bool:
    """Whether NVRTC can be loaded here."""
    try:
        _library()
    except CompilerError:
        return False
    return True


def version() -> tuple[int, int]:
    """NVRTC's own version."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def cache_folder() -> Path:
    """ZELLIGE_CACHE, or the user's cache folder."""
    named = os.environ.get("ZELLIGE_CACHE")
    if named:
        return Path(named) / "kernels"
    home = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "zellige" / "kernels"


def compile_source(source: str, arch: str, defines: Mapping[str, int]) -> bytes:
    """Machine code for an arch like `sm_75`, or PTX for one like `compute_75`; from the disk if it was compiled before.

    Raises CompilerError with the compiler's log.
    """
    options = [f"--gpu-architecture={arch}", "--std=c++17", *(f"-D{k}={v}" for k, v in sorted(defines.items()))]
    key = hashlib.sha256("\0".join([source, repr(version()), *options]).encode()).hexdigest()
    kept = cache_folder() / f"{key}.{'ptx' if arch.startswith('compute') else 'cubin'}"
    try:
        return kept.read_bytes()
    except OSError:
        pass
    code = _compile(source, options, "PTX" if arch.startswith("compute") else "CUBIN")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, kept)  # another process may read it meanwhile: never half a file
    except OSError:
        pass  # a read-only home costs a compilation at each start, nothing else
    return code


def _compile(source: str, options: Sequence[str], kind: str) -> bytes:
    nvrtc = _library()
    program = ctypes.c_void_p()
    _nvrtc_check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None), "")
    try:
        words = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        status = nvrtc.nvrtcCompileProgram(program, len(options), words)
        if status != 0:
            raise CompilerError(f"NVRTC {version()} refused a kernel: {_text(nvrtc, program, 'ProgramLog').decode()}")
        return _text(nvrtc, program, kind)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _nvrtc_check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    text = ctypes.create_string_buffer(size.value)
    _nvrtc_check(getattr(nvrtc, f"nvrtcGet{what}")(program, text), what)
    return text.raw


def _nvrtc_check(status: int, what: str) -> None:
    if status != 0:
        raise CompilerError(f"NVRTC failed with status {status} {what}".rstrip() + ".")


@functools.cache
def driver() -> ctypes.CDLL:
    """The CUDA driver's library."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise CompilerError("Expected the CUDA driver, but it cannot be loaded.") from error


def check(status: int) -> None:
    """Raises RuntimeError with the driver's name for a status that is not success."""
    if status != 0:
        name = ctypes.c_char_p()
        driver().cuGetErrorName(status, ctypes.byref(name))
        raise RuntimeError(f"The CUDA driver answered {(name.value or b'?').decode()} ({status}).")


class Function:
    """One kernel of a compiled module, in the context that is current when this is made."""

    def __init__(self, code: bytes, name: str, shared: int) -> None:
        self.shared = shared
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        check(driver().cuModuleLoadData(ctypes.byref(self._module), code))
        check(driver().cuModuleGetFunction(ctypes.byref(self._function), self._module, name.encode()))
        if shared > 48 * 1024:
            check(driver().cuFuncSetAttribute(self._function, _MAX_DYNAMIC_SHARED, shared))

    def launch(self, grid: int, threads: int, stream: int, arguments: Sequence[Any]) -> None:
        """Starts `grid` blocks on `stream`; arguments are ctypes values in the kernel's order. Returns at once."""
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        check(
            driver().cuLaunchKernel(
                self._function, grid, 1, 1, threads, 1, 1, self.shared, ctypes.c_void_p(stream), pointers, None
            )
        )


def static_limits(log: str) -> dict[str, int]:
    """Registers, stack and spills out of what `ptxas -v` prints.

    >>> static_limits("8 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads : Used 40 registers")
    {'registers': 40, 'stack': 8, 'spills': 4}
    """
    registers = re.search(r"Used (\d+) registers", log)
    stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    return {
        "registers": int(registers.group(1)) if registers else 0,
        "stack": int(stack.group(1)) if stack else 0,
        "spills": int(stack.group(2)) + int(stack.group(3)) if stack else 0,
    }
