"""What a Triton kernel compiles to, without a GPU: registers, spills, stack, shared memory, tensor-core instructions,
and registers that are read without ever being written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.gpu.config import SHARED_LIMIT, BackwardConfig, Config, LinearConfig, head_parts, power_of_two

_MMA = {"gfx942": r"\bv_mfma_", "gfx1100": r"\bv_wmma_", "sm_90": r"\bwgmma\.mma_async|\bmma\.sync"}


@dataclass(frozen=True)
class Compiled:
    """The compiler's report on one kernel: `registers` and `spills` are a thread's, `stack` is in bytes a thread, and
    `shared` in bytes a block; `mma` counts tensor-core instructions in the listing, a loop's body once; `unwritten` is
    what `unwritten_registers` finds in NVIDIA's machine code."""

    arch: str
    registers: int
    spills: int
    stack: int
    shared: int
    mma: int
    listing: str
    unwritten: tuple[str, ...] = ()

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
        if self.unwritten:
            found.append(f"reads {', '.join(self.unwritten)}, which nothing writes")
        return tuple(found)


def compile_kernel(
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    arch: str,
    *,
    warps: int,
    stages: int,
    aligned: bool = True,
) -> Compiled:
    """Compiles a `triton.jit` function for `arch`, one of SHARED_LIMIT.

    `signature` maps the arguments that are not in `constants` to Triton's type names. `aligned` says, as the launcher
    does for pointers from torch and strides that are multiples of 16, that pointers and integers divide by 16; an
    argument whose type is followed by "!" is left out of that. Raises ValueError for an unknown arch.
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
        said = subprocess.run(
            [nvidia_tool("cuobjdump"), "-res-usage", str(cubin)], capture_output=True, text=True, check=True
        )
        code = subprocess.run([nvidia_tool("nvdisasm"), "-c", str(cubin)], capture_output=True, text=True, check=True)
    usage = {k: int(v) for k, v in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said.stdout + said.stderr)}
    pattern = _MMA.get(arch, r"\bmma\.sync")
    # ptxas keeps spilled registers on the stack, so that STACK counts them too
    return Compiled(
        arch,
        usage["REG"],
        usage.get("LOCAL", 0) // 4,
        usage["STACK"],
        binary.metadata.shared,
        len(re.findall(pattern, listing)),
        listing,
        unwritten_registers(code.stdout),
    )


def unwritten_registers(code: str) -> tuple[str, ...]:
    """Uniform registers that `nvdisasm -c` shows as read and never as written: a compiler's mistake.

    ptxas of Triton 3.6 made one of the address of a matrix (sm_90, heads of 40 and 80 with a single key): whatever the
    register held from before decided what was read.

    >>> unwritten_registers("/*0*/ ULDC.64 UR4, c[0x0][0x208] ;\\n/*10*/ UIADD3 UR6, UP0, UR7, UR5, URZ ;")
    ('UR7',)
    """
    read: set[int] = set()
    written: set[int] = set()
    for opcode, operands in re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([\w.]+)\s+([^;]*);", code, re.MULTILINE):
        names = [part.strip() for part in operands.split(",")]
        while len(names) > 1 and re.fullmatch(r"U?P[T\d]", names[0]) and "SETP" not in opcode:
            names.pop(0)  # results that are predicates come first
        found = [int(n) for n in re.findall(r"\bUR(\d+)\b", ",".join(names[1:]))]
        matrices = re.search(r"gdesc\[UR(\d+)\]", operands)
        if matrices:  # four registers, of which the first two are of A: unused where A lies in registers itself
            start = int(matrices[1])
            found = [n for n in found if n != start]
            found += range(start + (2 if names[1].startswith("R") else 0), start + 4)
        first = re.fullmatch(r"UR(\d+)", names[0])
        if first:
            parts = opcode.split(".")
            wide = 4 if "128" in parts else 2 if "64" in parts or "WIDE" in parts else 1
            written.update(range(int(first[1]), int(first[1]) + wide))
        else:
            found += [int(n) for n in re.findall(r"\bUR(\d+)\b", names[0])]
        read.update(found)
    return tuple(f"UR{n}" for n in sorted(read - written))


def _amd_report(arch: str, binary: Any) -> Compiled:
    listing = binary.asm["amdgcn"]

    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", listing)
        return int(found.group(1)) if found else 0

    return Compiled(
        arch,
        field("vgpr_count"),
        field("vgpr_spill_count"),
        field("private_segment_fixed_size"),
        max(binary.metadata.shared, field("group_segment_fixed_size")),
        len(re.findall(_MMA[arch], listing)),
        listing,
    )


def nvidia_tool(name: str) -> str:
    """Path of `cuobjdump`, `nvdisasm` or `ptxas` as shipped inside Triton."""
    import triton

    suffix = ".exe" if sys.platform == "win32" else ""
    return os.fspath(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / f"{name}{suffix}")


def _strides(tensors: str) -> dict[str, str]:
    return {f"stride_{t}{x}": "1" if x == "d" else "i32" for t in tensors for x in "bhnd"}


def _pointers(names: str, kind: str) -> dict[str, str]:
    return {name: f"*{kind}" for name in names.split()}


def _counts(*names: str) -> dict[str, str]:
    return {name: "i32!" for name in names}


def compile_forward(arch: str, d: int, config: Config, *, is_causal: bool = False, dtype: str = "fp16") -> Compiled:
    """The forward kernel of `split_d.py` as `config` makes it, for contiguous inputs."""
    from kernels.gpu import forward_kernels

    main, tail = head_parts(d)
    sizes = _counts("n_heads", "n_queries", "n_keys", "batch_heads", "splits") | {"qk_scale": "fp32", "LSE": "*fp32"}
    constants: dict[str, Any] = {
        "D": d,
        "SLICE": config.slice,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "CAUSAL": is_causal,
    }
    out = _pointers("OUT", "fp32" if config.splits > 1 else dtype)
    if config.variant == "descriptor":
        boxes = {"Q": (config.block_m, d), "K": (config.block_n, d), "V": (config.block_n, config.slice)}
        inputs = {name: f"tensordesc<{dtype}[1,1,{rows},{columns}]>" for name, (rows, columns) in boxes.items()}
        return compile_kernel(
            forward_kernels.descriptor_kernel,
            inputs | out | sizes | {"stride_on": "i32"},
            constants,
            arch,
            warps=config.warps,
            stages=config.stages,
        )
    constants |= {"P0": main, "P1": tail, "CHUNK": config.chunk, "SINGLE": config.single_loop, "STAGES": config.stages}
    signature = _pointers("Q K V", dtype) | out | sizes | _strides("qkvo") | {"stride_os": "i64"}
    return compile_kernel(
        forward_kernels.forward_kernel, signature, constants, arch, warps=config.warps, stages=config.stages
    )


def compile_backward(arch: str, d: int, config: BackwardConfig, *, is_causal: bool = False) -> dict[str, Compiled]:
    """The backward's kernels by name, for contiguous float16."""
    from kernels.gpu import backward_kernels

    main, tail = head_parts(d)
    common = _pointers("Q K V DOUT", "fp16") | _pointers("LSE DELTA", "fp32") | _strides("qkvg") | {"scale": "fp32"}
    common |= _counts("n_heads", "n_queries", "n_keys")

    def constants(tiles: Config) -> dict[str, Any]:
        return {
            "D": d,
            "P0": main,
            "P1": tail,
            "CHUNK": tiles.chunk,
            "SLICE": tiles.slice,
            "BLOCK_M": tiles.block_m,
            "BLOCK_N": tiles.block_n,
            "CAUSAL": is_causal,
        }

    made = {}
    for keys, values in ((True, True),) if config.together else ((True, False), (False, True)):
        made["keys" * keys + "values" * values] = compile_kernel(
            backward_kernels.key_value_kernel, common | _pointers("DK DV", "fp16"),
            constants(config.keys) | {"KEYS": keys, "VALUES": values}, arch,
            warps=config.keys.warps, stages=config.keys.stages,
        )  # fmt: skip
    made["queries"] = compile_kernel(
        backward_kernels.query_kernel,
        common | _pointers("DQ", "fp16"),
        constants(config.queries),
        arch,
        warps=config.queries.warps,
        stages=config.queries.stages,
    )
    return made


def compile_linear(arch: str, d: int, e: int, config: LinearConfig) -> dict[str, Compiled]:
    """The kernels of `linear.py` by name, for contiguous float16."""
    from kernels.gpu import linear_kernels

    shape = {
        "D": d,
        "E": e,
        "WIDTH_D": power_of_two(d),
        "WIDTH_E": min(power_of_two(e), config.width_e),
        "BLOCK": config.block,
    }
    scan = shape | {"SEGMENT": 1024, "REVERSE": False}
    state = {"STATE": "*fp32", "TOTAL": "*fp32"} | _counts("n_heads", "n")
    moving = state | {"RATE": "*fp32"} | _counts("segments")
    cases = {}
    for normalize in (False, True):
        flag, end = {"NORMALIZE": normalize}, ", normalized" if normalize else ""
        cases |= {
            f"causal{end}": (linear_kernels.causal_kernel, _pointers("Q K V OUT", "fp16") | moving | _strides("qkvo"),
                             scan | flag | {"STRICT": False}),
            f"state{end}": (linear_kernels.state_kernel, _pointers("K V", "fp16") | moving | _strides("kv"),
                            scan | flag),
            f"apply{end}": (linear_kernels.apply_kernel, _pointers("Q OUT", "fp16") | state | _strides("qo"),
                            shape | flag),
        }  # fmt: skip
    return {
        name: compile_kernel(kernel, signature, constants, arch, warps=config.warps, stages=config.stages)
        for name, (kernel, signature, constants) in cases.items()
    }
