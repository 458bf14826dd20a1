"""How to run a checkpoint in so many bytes: weights' type, offload, tiles. A plan is an estimate on the safe side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .errors import SizeError, ZelligeError

Offload = Literal["none", "model", "sequential"]
GIB = 2**30
RESERVE = 0.25 * GIB
"""For the context of the device and fragmentation; on a CPU the libraries take more, and are counted by the system."""
CPU_RESERVE = 0.6 * GIB
NETWORK_COPIES = 24
"""Activations of the U-Net, in canvases of a tile's cells by its first width: skips, and what a block holds at once."""
DECODER_COPIES = 4
"""Activations of a decoder's widest full-size layer that are alive at once: input, padded, output, and the shortcut."""
ATTENTION_COPIES = 6
"""Canvases of the latent grid that attention over it has alive at once."""
HALO = 16
"""Latent cells around a tile that the autoencoder's layers read, at most."""

_UNITS = {"": 1, "b": 1, "k": 1e3, "kb": 1e3, "kib": 2**10, "m": 1e6, "mb": 1e6, "mib": 2**20}
_UNITS |= {"g": 1e9, "gb": 1e9, "gib": 2**30, "t": 1e12, "tb": 1e12, "tib": 2**40}


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What to do, and the bytes that it takes at its highest, estimated.

    Attributes:
        budget: bytes to keep to.
        device: "cpu" or the accelerator's name.
        dtype: "float16" or "float32".
        offload: diffusers' own: whole models or single layers wait on the host.
        tile_batch: tiles that go through the network at once.
        vae_tile: latent cells along the autoencoder's tiles.
        hold: bytes of its largest canvas kept on the device, two at most; None where canvases wait on the host alone.
        peak: bytes.
    """

    budget: int
    device: str
    dtype: str
    offload: Offload
    tile_batch: int
    vae_tile: int
    peak: int
    hold: int | None = None

    def __str__(self) -> str:
        held = "" if self.hold is None else f", canvases up to {self.hold / GIB:.2f} GiB held"
        offload = {"none": "all models stay", "model": "models take turns", "sequential": "layers take turns"}
        return (
            f"{self.peak / GIB:.2f} of {self.budget / GIB:.2f} GiB on {self.device}: {self.dtype}, "
            f"{offload[self.offload]}, {self.tile_batch} tiles at once, "
            f"autoencoder in tiles of {self.vae_tile} cells{held}"
        )


def parse_bytes(text: str) -> int:
    """Bytes from "4GiB", "4 GB", "500M" or a number.

    >>> parse_bytes("4GiB"), parse_bytes("1.5 gb")
    (4294967296, 1500000000)

    Raises:
        ZelligeError: another form, or less than one byte.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS or float(match[1]) * _UNITS[match[2].lower()] < 1:
        raise ZelligeError(f"Expected an amount of memory such as 4GiB, but got {text[:40]!r}.")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def plan_memory(base: Any, budget: int, *, device: str, canvas: tuple[int, int], guided: bool = True) -> MemoryPlan:
    """The fastest plan for a diffusers pipeline that keeps to `budget` bytes on a device.

    Args:
        base: with unet, vae and text encoders.
        budget: of the device's memory; on the CPU of the process' memory.
        device: "cpu", "cuda", ...
        canvas: (height, width) in latent cells of the largest canvas.
        guided: whether guidance doubles the network's batch.

    Raises:
        SizeError: no plan keeps to it; the message says what would.
    """
    if budget < 1:
        raise SizeError(f"Expected memory of at least 1 byte, but got {budget}.")
    least: MemoryPlan | None = None
    for plan in _plans(base, budget, device, canvas, guided):
        if plan.peak <= budget:
            return plan
        least = plan if least is None or plan.peak < least.peak else least
    needed = 0 if least is None else least.peak
    raise SizeError(
        f"Expected at least {needed / GIB:.2f} GiB for this model and size ({least}), but got {budget / GIB:.2f} GiB."
    )


def _plans(base: Any, budget: int, device: str, canvas: tuple[int, int], guided: bool) -> Iterator[MemoryPlan]:
    """From the fastest to the smallest."""
    cpu = device == "cpu"
    dtype, size = ("float32", 4) if cpu else ("float16", 2)
    parts = {name: module for name, module in base.components.items() if hasattr(module, "parameters")}
    weights = {name: size * sum(p.numel() for p in module.parameters()) for name, module in parts.items()}
    if base.vae.config.get("force_upcast") and not cpu:
        weights["vae"] *= 2
    layers = max((size * sum(p.numel() for p in m.parameters(recurse=False)) for m in base.unet.modules()), default=0)
    tile = int(base.unet.config.sample_size)
    cells = min(canvas[0] * canvas[1], tile * tile)
    latents = 4 * 8 * int(base.unet.config.in_channels) * canvas[0] * canvas[1]
    reserve = CPU_RESERVE if cpu else RESERVE
    # offload frees a device; a CPU has nowhere to offload to
    offloads: tuple[Offload, ...] = ("none",) if cpu else ("none", "model", "sequential")
    activation = 4 if base.vae.config.get("force_upcast") else size
    for offload in offloads:
        for batch, vae_tile in ((4, 64), (1, 64), (1, 32), (1, 16), (1, 8)):
            at_once = batch * (2 if guided else 1)
            network = NETWORK_COPIES * size * at_once * cells * int(base.unet.config.block_out_channels[0])
            for hold in _holds(base.vae, device, canvas, activation):
                decoder = _decoder_bytes(base.vae, vae_tile, canvas, activation, hold)
                if offload == "none":
                    peak = sum(weights.values()) + max(network, decoder)
                elif offload == "model":
                    peak = max(*weights.values(), weights["unet"] + network, weights["vae"] + decoder)
                else:
                    peak = layers + max(network, decoder)
                yield MemoryPlan(
                    budget=budget, device=device, dtype=dtype, offload=offload, tile_batch=batch, vae_tile=vae_tile,
                    peak=int(peak + latents + reserve), hold=hold,
                )  # fmt: skip


def _holds(vae: Any, device: str, canvas: tuple[int, int], size: int) -> tuple[int | None, ...]:
    """What the autoencoder may keep on the device, from the fastest: canvases of the latent grid, and twice as fine.

    Finer ones wait in pinned memory, which CUDA alone has here; elsewhere nothing would spare computing again.
    """
    if not device.startswith("cuda"):
        return (None,)
    grid = _grid_bytes(vae, canvas, size)
    return 4 * grid, grid, 0


def _grid_bytes(vae: Any, canvas: tuple[int, int], size: int) -> int:
    """Of one canvas of the latent grid, where channels are the most."""
    return canvas[0] * canvas[1] * int(vae.config.block_out_channels[-1]) * size


def _decoder_bytes(vae: Any, tile: int, canvas: tuple[int, int], size: int, hold: int | None) -> int:
    """Of one tile at the decoder's end, where its cells are pixels, or of attention over the latent grid.

    With `hold` two canvases and the picture are kept beside a tile, and beside attention one of the latent grid.
    """
    widths = list(vae.config.block_out_channels)
    factor = 2 ** (len(widths) - 1)
    sides = [min(tile, side) + (HALO if side > tile else 0) for side in canvas]
    # the last block starts with the channels of the one before
    pixels = sides[0] * sides[1] * factor**2 * widths[min(1, len(widths) - 1)]
    grid = _grid_bytes(vae, canvas, size)
    if hold is None:
        return max(DECODER_COPIES * pixels * size, ATTENTION_COPIES * grid)
    picture = 3 * canvas[0] * canvas[1] * factor**2 * size
    return max(DECODER_COPIES * pixels * size + 2 * hold + picture, ATTENTION_COPIES * grid + min(hold, grid))
