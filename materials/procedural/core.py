"""Families of procedural materials: the registry, what a family is given, what it returns, and sampling."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from materials.maps import height_to_range, normal_from_height
from materials.procedural import fields
from materials.procedural.palette import NAMED, Range

MAX_RMS_SLOPE = 0.75
"""Steeper height fields get less depth, so that normals stay plausible."""


def linear_to_srgb(x: Tensor) -> Tensor:
    """IEC 61966-2-1 encoding of linear values in [0, 1]."""
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp_min(1e-8) ** (1 / 2.4) - 0.055)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What a family returns, for N samples.

    basecolor (N, 3, H, W) is sRGB-encoded in [0, 1] unless `linear`; height (N, H, W) in any unit (it is scaled to
    [0, 1] per sample, depth_m is then the metres between 0 and 1); roughness and metallic (N, H, W) in [0, 1]; size_m
    is the edge length in metres of a square tile, depth_m the relief, both (N, 1, 1) or (N,); one caption per sample.
    """

    basecolor: Tensor
    height: Tensor
    roughness: Tensor
    metallic: Tensor
    size_m: Tensor
    depth_m: Tensor
    captions: list[str]
    linear: bool = False


@dataclass(frozen=True, kw_only=True)
class Batch:
    """N materials: basecolor (N, 3, H, W) sRGB in [0, 1], unit normal (N, 3, H, W), height, roughness and metallic
    (N, 1, H, W) in [0, 1], depth_m (N,), size_m (N, 2) as (width, height); all float32; and one caption each."""

    basecolor: Tensor
    normal: Tensor
    height: Tensor
    roughness: Tensor
    metallic: Tensor
    captions: list[str]
    depth_m: Tensor
    size_m: Tensor

    def network(self) -> Tensor:
        """The maps as (N, 8, H, W) in [-1, 1]: basecolor, normal x and y, height, roughness, metallic."""
        scalars = torch.cat([self.height, self.roughness, self.metallic], dim=1) * 2 - 1
        return torch.cat([self.basecolor * 2 - 1, self.normal[:, :2], scalars], dim=1)


@dataclass(frozen=True)
class Context:
    """What a family works with: N = `n` samples of `size` (H, W), their seeds (N, 1, 1) and the coordinates u, v
    (N, H, W). Noise methods take a frequency for a square tile and adapt it to the aspect, so texels stay square."""

    n: int
    size: tuple[int, int]
    device: torch.device | str
    seed: Tensor
    u: Tensor
    v: Tensor

    @property
    def stretch(self) -> tuple[float, float]:
        """How much wider and taller the tile is than the square of the same area (aspect limited to 1:4)."""
        ratio = min(4.0, max(0.25, self.size[1] / self.size[0])) ** 0.5
        return ratio, 1.0 / ratio

    def freq(self, f: fields.Freq, even_x: bool = False, even_y: bool = False) -> tuple[int | Tensor, int | Tensor]:
        """Cells along x and y for `f` (or (fx, fy)) cells along a square tile; at least 1, on request even."""
        pair = f if isinstance(f, tuple) else (f, f)
        out: list[int | Tensor] = []
        for value, by, even in zip(pair, self.stretch, (even_x, even_y), strict=True):
            step = 2 if even else 1
            if isinstance(value, Tensor):
                out.append(((value * by / step).round().long() * step).clamp_min(step))
            else:
                out.append(max(step, round(value * by / step) * step))
        return out[0], out[1]

    def rand(self, salt: int, lo: float = 0.0, hi: float = 1.0) -> Tensor:
        """Uniform parameter in [lo, hi), (N, 1, 1)."""
        return fields.rand(self.seed, salt, lo, hi)

    def randint(self, salt: int, lo: int, hi: int) -> Tensor:
        """Uniform integer parameter in lo..hi, (N, 1, 1) int64."""
        return fields.randint(self.seed, salt, lo, hi)

    def flag(self, salt: int, probability: float) -> Tensor:
        """1.0 with the given probability, else 0.0, (N, 1, 1)."""
        return (self.rand(salt) < probability).float()

    def choice(self, salt: int, values: Sequence[float]) -> Tensor:
        """One of `values` per sample, (N, 1, 1) float32."""
        table = torch.tensor(list(values), device=self.device, dtype=torch.float32)
        return table[self.randint(salt, 0, len(values) - 1)]

    def listed(self, parameter: Tensor) -> list:
        """A parameter (N, 1, 1) as a list of N Python numbers, for captions."""
        return parameter.reshape(-1).tolist()

    def colour(
        self, salt: int, natural: Range, named: float = 0.5, jitter: float = 0.05, names: Sequence[str] | None = None
    ) -> tuple[Tensor, list[str]]:
        """A base colour (N, 3, 1, 1) sRGB and its name, per sample: from NAMED (or `names` of it) with probability
        `named`, else from `natural`, with a uniform jitter of hue and lightness."""
        extra: Range = [(name, NAMED[name]) for name in (names or list(NAMED))]
        pool = list(natural) + extra
        index = torch.where(
            self.rand(salt) < named,
            len(natural) + self.randint(salt + 1, 0, len(extra) - 1),
            self.randint(salt + 1, 0, len(natural) - 1),
        ).reshape(-1)
        rgb = torch.tensor([value for _, value in pool], device=self.device)[index][:, :, None, None]
        light = 1.0 + self.rand(salt + 2, -2.0, 2.0)[:, None] * jitter
        shift = torch.stack([self.rand(salt + 3 + c, -0.5, 0.5) for c in range(3)], dim=1) * jitter
        return (rgb * light + shift * (0.3 + rgb)).clamp(0.02, 0.96), [pool[i][0] for i in index.tolist()]

    def fbm(
        self,
        freq: fields.Freq,
        salt: int,
        octaves: int = 5,
        gain: float = 0.5,
        ridged: bool = False,
        at: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """`fields.fbm` at `at` (default: u, v) with the frequency adapted to the aspect."""
        u, v = at or (self.u, self.v)
        return fields.fbm(u, v, self.freq(freq), self.seed, octaves, gain, salt, ridged)

    def noise(self, freq: fields.Freq, salt: int, at: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """`fields.value_noise` in [0, 1) with the frequency adapted to the aspect."""
        u, v = at or (self.u, self.v)
        return fields.value_noise(u, v, self.freq(freq), self.seed, salt)

    def worley(
        self, freq: fields.Freq, salt: int, jitter: float | Tensor = 1.0, at: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`fields.worley` with the frequency adapted to the aspect."""
        u, v = at or (self.u, self.v)
        return fields.worley(u, v, self.freq(freq), self.seed, jitter, salt)

    def worley_edges(
        self, freq: fields.Freq, salt: int, jitter: float | Tensor = 1.0, at: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`fields.worley_edges` with the frequency adapted to the aspect."""
        u, v = at or (self.u, self.v)
        return fields.worley_edges(u, v, self.freq(freq), self.seed, jitter, salt)

    def warp(self, amount: float | Tensor, freq: fields.Freq, salt: int) -> tuple[Tensor, Tensor]:
        """u, v moved by periodic noise of about `amount` tiles."""
        return fields.warp(self.u, self.v, amount, self.freq(freq), self.seed, salt)

    def cell(self, cell_id: Tensor, salt: int, lo: float = 0.0, hi: float = 1.0) -> Tensor:
        """A uniform number in [lo, hi) per cell id (N, H, W)."""
        return lo + (hi - lo) * fields.hash01(cell_id, torch.zeros_like(cell_id), self.seed, salt + 50000)


Make = Callable[[Context], Layers]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of procedural material: `make` draws a whole batch from a `Context`."""

    name: str
    make: Make = field(repr=False)


FAMILIES: dict[str, Family] = {}
"""Every registered family by name."""


def family(name: str) -> Callable[[Make], Make]:
    """Decorator that registers `make(ctx) -> Layers` under `name`. Raises ValueError for a name already taken."""

    def register(make: Make) -> Make:
        if name in FAMILIES:
            raise ValueError(f"Expected a new family name, but got {name!r} twice")
        FAMILIES[name] = Family(name=name, make=make)
        return make

    return register


def over(base: Tensor, colour: Tensor, mask: Tensor) -> Tensor:
    """Paint `colour` (N, 3, H, W) or (N, 3, 1, 1) over `base` (N, 3, H, W) with opacity `mask` (N, H, W)."""
    return base + (colour - base) * mask[:, None]


def rgb(r: float, g: float, b: float, like: Tensor) -> Tensor:
    """One colour as (1, 3, 1, 1) on the device of `like`."""
    return torch.tensor([r, g, b], device=like.device, dtype=torch.float32).reshape(1, 3, 1, 1)


@torch.no_grad()
def sample(
    family: str | Family,
    seeds: Sequence[int],
    size: tuple[int, int] = (256, 256),
    device: torch.device | str = "cpu",
    shift: tuple[int, int] = (0, 0),
) -> Batch:
    """Draw one material per seed of a family, at `size` = (H, W).

    The same seed, family and size give the same pixels on one device, alone or in a batch. `shift` = (rows, columns)
    starts the tile that many texels further down and right; it equals rolling every map by the negative shift. Raises
    ValueError for an unknown family, no seeds or an empty size.
    """
    if isinstance(family, str):
        if family not in FAMILIES:
            raise ValueError(f"Expected a family in {sorted(FAMILIES)}, but got {family!r}")
        family = FAMILIES[family]
    if len(seeds) == 0 or min(size) < 1:
        raise ValueError(f"Expected seeds and a positive size, but got {len(seeds)} seeds and size {tuple(size)}")
    n, (rows, columns) = len(seeds), size
    own = zlib.crc32(family.name.encode())
    folded = [(int(s) * 6364136223846793005 + own * 1442695040888963407) % (2**63) for s in seeds]
    seed = torch.tensor(folded, dtype=torch.int64, device=device).reshape(n, 1, 1)
    u, v = fields.grid(n, size, device)
    u, v = u + shift[1] / columns, v + shift[0] / rows
    ctx = Context(n=n, size=size, device=device, seed=seed, u=u, v=v)
    return _finish(ctx, family.make(ctx))


def _finish(ctx: Context, layers: Layers) -> Batch:
    """Scale, clamp, and derive the normal from the height."""
    shape = (ctx.n, *ctx.size)
    height = height_to_range(layers.height.expand(shape)[:, None].float())
    edge = layers.size_m.reshape(-1).float().expand(ctx.n)
    size_m = torch.stack([edge * ctx.stretch[0], edge * ctx.stretch[1]], dim=1)
    depth = layers.depth_m.reshape(-1).float().expand(ctx.n)
    normal = normal_from_height(height, depth_m=depth, size_m=size_m)
    slope = (1.0 / normal[:, 2].square().clamp_min(1e-4) - 1.0).mean(dim=(1, 2)).sqrt()
    limit = (MAX_RMS_SLOPE / slope.clamp_min(1e-6)).clamp_max(1.0)
    depth = depth * limit
    flat = normal / normal[:, 2:] * torch.stack([limit, limit, torch.ones_like(limit)], dim=1)[:, :, None, None]
    normal = flat / flat.norm(dim=1, keepdim=True)
    colour = linear_to_srgb(layers.basecolor.clamp(0, 1)) if layers.linear else layers.basecolor
    return Batch(
        basecolor=colour.expand(ctx.n, 3, *ctx.size).clamp(0.02, 0.97).contiguous(),
        normal=normal,
        height=height,
        roughness=layers.roughness.expand(shape)[:, None].clamp(0.03, 1.0).contiguous(),
        metallic=layers.metallic.expand(shape)[:, None].clamp(0.0, 1.0).contiguous(),
        captions=layers.captions,
        depth_m=depth,
        size_m=size_m,
    )
