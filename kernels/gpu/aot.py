"""What a Triton kernel compiles to, without a GPU: registers, spills, stack, shared memory, tensor-core instructions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.gpu.config import SHARED_LIMIT

_MMA = {"gfx942": r"\bv_mfma_", "gfx1100": r"\bv_wmma_", "sm_90": r"\bwgmma\.mma_async|\bmma\.sync"}


@dataclass(frozen=True)
class Compiled:
    """The compiler's report on one kernel: `registers` and `spills` are a thread's, `stack` is in bytes a thread, and
    `shared` in bytes a block; `mma` counts tensor-core instructions in the listing, a loop's body once."""

    arch: str
    registers: int
    spills: int
    stack: int
    shared: int
    mma: int
    listing: str

    @property
    def problems(self) -> tuple[str, ...]:
        """Why this must not ship: empty for a good kernel."""
        found = []
        if self.mma == 0:
            found.append("no tensor-core instruction")
        if self.spills:
            found.append(f"{self.spills} spilled registers")
        if self.stack:
            found.append(f"{self.stack} bytes of stack")
        if self.shared > SHARED_LIMIT[self.arch]:
            found.append(f"{self.shared} bytes of shared memory, more than {SHARED_LIMIT[self.arch]}")
        return tuple(found)


def compile_kernel(kernel: Any, signature: dict[str, str], constants: dict[str, Any], arch: str, *, warps: int,
                   stages: int, aligned: bool = True) -> Compiled:
    """Compiles a `triton.jit` function for `arch`, one of SHARED_LIMIT.

    `signature` maps the arguments that are not in `constants` to Triton's type names. `aligned` says, as the launcher
    does for pointers from torch and strides that are multiples of 16, that pointers and integers divide by 16; an argument
    whose type is followed by "!" is left out of that. Raises ValueError for an unknown arch.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if arch not in SHARED_LIMIT:
        raise ValueError(f"Expected arch to be one of {', '.join(SHARED_LIMIT)}, but got {arch!r}.")
    amd = arch.startswith("gfx")
    target = GPUTarget("hip", arch, 64 if arch == "gfx942" else 32) if amd else GPUTarget("cuda", int(arch[3:]), 32)
    types: dict[str, str] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    values = dict(constants)
    for i, name in enumerate(kernel.arg_names):
        kind = signature.get(name, "constexpr")
        if kind == "1":  # the launcher turns an integer 1 into a constant
            values[name], kind = 1, "constexpr"
        divisible = aligned and (kind.startswith("*") or kind in ("i32", "i64"))
        types[name] = kind.rstrip("!")
        if divisible:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, types, values, attributes)
    options: dict[str, Any] = {"num_warps": warps, "num_stages": stages}
    binary = triton.compile(source, target=target, options=options)
    if amd:
        return _amd_report(arch, binary)
    return _nvidia_report(arch, binary)


def _nvidia_report(arch: str, binary: Any) -> Compiled:
    """Reads `cuobjdump -res-usage`, which comes with Triton."""
    listing = binary.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        said = subprocess.run([nvidia_tool("cuobjdump"), "-res-usage", str(cubin)], capture_output=True, text=True,
                              check=True)
    usage = {k: int(v) for k, v in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said.stdout + said.stderr)}
    pattern = _MMA.get(arch, r"\bmma\.sync")
    # ptxas keeps spilled registers on the stack, so that STACK counts them too
    return Compiled(arch, usage["REG"], usage.get("LOCAL", 0) // 4, usage["STACK"], binary.metadata.shared,
                    len(re.findall(pattern, listing)), listing)


def _amd_report(arch: str, binary: Any) -> Compiled:
    listing = binary.asm["amdgcn"]

    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", listing)
        return int(found.group(1)) if found else 0

    return Compiled(arch, field("vgpr_count"), field("vgpr_spill_count"), field("private_segment_fixed_size"),
                    max(binary.metadata.shared, field("group_segment_fixed_size")),
                    len(re.findall(_MMA[arch], listing)), listing)


def nvidia_tool(name: str) -> str:
    """Path of `cuobjdump`, `nvdisasm` or `ptxas` as shipped inside Triton."""
    import triton

    suffix = ".exe" if sys.platform == "win32" else ""
    return os.fspath(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / f"{name}{suffix}")
