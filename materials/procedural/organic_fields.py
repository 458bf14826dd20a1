"""Fields, colours and wording shared by the organic families: everything is batched, periodic and seeded per sample."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from materials.procedural import fields
from materials.procedural.core import Context
from materials.procedural.palette import NAMED

RGB = tuple[float, float, float]

SPLAT_CAP = 96
"""Most splat cells along one axis; more are clamped."""


def hsv(hue: float, saturation: float, value: float) -> RGB:
    """sRGB triple of a hue in degrees and saturation and value in [0, 1]."""
    return colorsys.hsv_to_rgb((hue % 360.0) / 360.0, saturation, value)


class Brush:
    """Draws fields over one batch; each call takes the next salt, so that no two fields share random numbers.

    Frequencies are cells along a square tile, adapted to the aspect so that cells stay square.
    """

    def __init__(self, ctx: Context) -> None:
        self.n, self.size, self.device = ctx.n, ctx.size, torch.device(ctx.device)
        self.seed, self.u, self.v = ctx.seed, ctx.u % 1.0, ctx.v % 1.0
        self.aspect = ctx.stretch
        self.words = [random.Random(int(s)) for s in ctx.seed.flatten().tolist()]
        self._salt = 1000

    def salt(self) -> int:
        """A salt no other field of this batch uses."""
        self._salt += 17
        return self._salt

    # random numbers -------------------------------------------------------------------------------------------------
    def rand(self, lo: float = 0.0, hi: float = 1.0) -> Tensor:
        """Uniform (N, 1, 1) numbers in [lo, hi)."""
        return fields.rand(self.seed, self.salt(), lo, hi)

    def flag(self, probability: float) -> Tensor:
        """(N, 1, 1) of 0.0 or 1.0, 1.0 with the given probability."""
        return (self.rand() < probability).float()

    def pick(self, options: int) -> Tensor:
        """(N, 1, 1) int64 index in [0, options)."""
        return (self.rand() * options).long().clamp(0, options - 1)

    def freq(self, lo: float, hi: float) -> Tensor:
        """(N, 1, 1) cells along a square tile, log-uniform in [lo, hi], whole numbers as float32."""
        return torch.exp(self.rand(math.log(lo), math.log(hi))).round().clamp(min=1.0)

    def cells(
        self, f: float | Tensor, multiple: int = 1, stretch: tuple[float, float] = (1.0, 1.0)
    ) -> tuple[Tensor, Tensor]:
        """Whole (N, 1, 1) int64 cell counts over the whole tile along x and y, each a multiple of `multiple`."""
        base = f if isinstance(f, Tensor) else torch.full((self.n, 1, 1), float(f), device=self.device)
        out = [
            ((base * a * s / multiple).round().clamp(min=1.0) * multiple).long()
            for a, s in zip(self.aspect, stretch, strict=True)
        ]
        return out[0], out[1]

    # fields ---------------------------------------------------------------------------------------------------------
    def noise(
        self,
        f: float | Tensor,
        octaves: int = 4,
        gain: float = 0.5,
        *,
        stretch: tuple[float, float] = (1.0, 1.0),
        uv: tuple[Tensor, Tensor] | None = None,
        ridged: bool = False,
    ) -> Tensor:
        """Fractal gradient noise (N, H, W), about [-1, 1]; ridged: [0, 1]-like crests."""
        u, v = uv if uv is not None else (self.u, self.v)
        freq: fields.Freq = self.cells(f, 1, stretch)
        if not isinstance(f, Tensor):
            # whole numbers known beforehand need far smaller lattice tables
            freq = max(1, round(f * self.aspect[0] * stretch[0])), max(1, round(f * self.aspect[1] * stretch[1]))
        salt = self.salt()
        return fields.fbm(u, v, freq, self.seed, octaves=octaves, gain=gain, salt=salt, ridged=ridged)

    def flat(
        self,
        f: float | Tensor,
        octaves: int = 4,
        gain: float = 0.5,
        *,
        stretch: tuple[float, float] = (1.0, 1.0),
        uv: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Fractal noise made uniform in [0, 1] per sample (so that a threshold is a covered share)."""
        x = self.noise(f, octaves, gain, stretch=stretch, uv=uv)
        std = x.flatten(1).std(dim=1).clamp(min=1e-4)[:, None, None]
        mean = x.flatten(1).mean(dim=1)[:, None, None]
        return 0.5 + 0.5 * torch.erf((x - mean) / (std * math.sqrt(2.0)))

    def mask(
        self,
        f: float | Tensor,
        cover: float | Tensor,
        soft: float = 0.1,
        octaves: int = 4,
        gain: float = 0.55,
        *,
        bias: Tensor | None = None,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> Tensor:
        """Soft patches in [0, 1] that cover about the given share; `bias` (N, H, W) pulls them to where it is high."""
        x = self.flat(f, octaves, gain, stretch=stretch)
        if bias is not None:
            x = x + bias
        edge = 1.0 - cover
        return smooth(x, edge - soft, edge + soft)

    def warp(
        self, amount: float | Tensor, f: float | Tensor, octaves: int = 2, *, uv: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Coordinates moved by fractal noise; `amount` in shares of a square tile."""
        u, v = uv if uv is not None else (self.u, self.v)
        du = self.noise(f, octaves, uv=uv) * amount / self.aspect[0]
        dv = self.noise(f, octaves, uv=uv) * amount / self.aspect[1]
        return (u + du) % 1.0, (v + dv) % 1.0

    def worley(
        self,
        f: float | Tensor,
        jitter: float = 1.0,
        *,
        uv: tuple[Tensor, Tensor] | None = None,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Nearest and second distance, cell hash in [0, 1) and offset to the nearest point, in cells."""
        u, v = uv if uv is not None else (self.u, self.v)
        f1, f2, cell, dx, dy = fields.worley(
            u, v, self.cells(f, 1, stretch), self.seed, jitter=jitter, salt=self.salt()
        )
        return f1, f2, self.hash(cell), dx, dy

    def hash(self, cell: Tensor) -> Tensor:
        """A fresh hash in [0, 1) of each cell id."""
        return fields.hash01(cell, torch.zeros_like(cell), self.seed, self.salt())

    def edges(
        self,
        f: float | Tensor,
        jitter: float = 1.0,
        *,
        uv: tuple[Tensor, Tensor] | None = None,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> tuple[Tensor, Tensor]:
        """Distance to the nearest Voronoi edge, in cells, and the cell's hash in [0, 1)."""
        u, v = uv if uv is not None else (self.u, self.v)
        out = fields.worley_edges(u, v, self.cells(f, 1, stretch), self.seed, jitter=jitter, salt=self.salt())
        return out[0], self.hash(out[1])

    def cracks(
        self, f: float | Tensor, width: float | Tensor, *, wander: float = 0.03, keep: float | Tensor = 1.0
    ) -> Tensor:
        """Branching lines, 1 in the crack, else 0; `width` in cells, `keep` the share of the area that has them."""
        uv = self.warp(wander, 5, 4)
        edge, _ = self.edges(f, uv=uv)
        where = self.mask(2, keep, 0.12, 3)
        return (1.0 - smooth(edge, width * 0.3, width * (0.4 + 1.2 * where))) * smooth(where, 0.05, 0.5)

    def splats(
        self,
        f: float | Tensor,
        shape: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        *,
        stretch: tuple[float, float] = (1.0, 1.0),
        spin: float | Tensor = math.pi,
        density: float | Tensor = 1.0,
        uv: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One jittered, turned splat a cell, the highest wins.

        `shape(a, b, r, s)` gives a height (at most 0 outside the splat) from the turned offset in cells and two hashes.
        Returns height (0 where empty), hash, and the winner's a and b, each (N, H, W).
        """
        u, v = uv if uv is not None else (self.u, self.v)
        fx, fy = (c.clamp(max=SPLAT_CAP) for c in self.cells(f, 1, stretch))
        edge = torch.arange(-1, SPLAT_CAP + 1, device=self.device)
        ix, iy = (edge % fx), (edge[:, None] % fy)
        r, q, s, w, t, d = (fields.hash01(ix, iy, self.seed, self.salt()) for _ in range(6))
        angle = (2.0 * t - 1.0) * spin
        # a cell left empty gets a splat so far away that nothing of it is seen
        r = torch.where(d < density, r, torch.full_like(r, 1e4))
        table = torch.stack([r, q, angle.cos(), angle.sin(), s, w], dim=-1)
        side = SPLAT_CAP + 2
        table = table.expand(self.n, side, side, 6).reshape(-1, 6)
        x, y = (u % 1.0) * fx, (v % 1.0) * fy
        cx, cy = torch.minimum(x.long(), fx - 1), torch.minimum(y.long(), fy - 1)
        x, y = x - cx, y - cy
        base = torch.arange(self.n, device=self.device)[:, None, None] * (side * side) + (cy + 1) * side + cx + 1
        top = torch.zeros_like(x)
        best, along, across = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        for j in (-1, 0, 1):
            for i in (-1, 0, 1):
                r, q, co, si, s, w = table[base + (j * side + i)].unbind(-1)
                dx, dy = x - (i + r), y - (j + q)
                a, b = co * dx + si * dy, co * dy - si * dx
                h = shape(a, b, s, w)
                over = h > top
                top = torch.where(over, h, top)
                best = torch.where(over, s, best)
                along = torch.where(over, a, along)
                across = torch.where(over, b, across)
        return top, best, along, across

    def blur(self, x: Tensor, radius: float) -> Tensor:
        """Periodic box-on-box blur of (N, H, W); radius in shares of a square tile."""
        k = max(1, round(radius * min(self.size)))
        y = x[:, None]
        for _ in range(2):
            y = F.avg_pool2d(_wrap(y, k), 2 * k + 1, stride=1)
        return y[:, 0]

    def cavity(self, height: Tensor, radius: float = 0.02, strength: float | Tensor = 1.0) -> Tensor:
        """Darkening factor (N, 1, H, W), about [0.5, 1.15], of dents and crests of a height field in [0, 1]."""
        d = height - self.blur(height, radius)
        std = d.flatten(1).std(dim=1).clamp(min=1e-3)[:, None, None]
        return (1.0 + strength * 0.12 * (d / std).clamp(-3.0, 1.5))[:, None]

    # colours --------------------------------------------------------------------------------------------------------
    def colors(self, rgb: Sequence[RGB], jitter: float = 0.03) -> Tensor:
        """One sRGB colour per sample (N, 3, 1, 1), each moved a little in brightness and tint."""
        base = torch.tensor(rgb, dtype=torch.float32, device=self.device)[:, :, None, None]
        light = 1.0 + self.rand(-1.0, 1.0)[:, None] * jitter * 3.0
        tint = torch.stack([self.rand(-jitter, jitter) for _ in range(3)], dim=1) * 0.45
        return (base * light + tint * (0.3 + base)).clamp(0.015, 0.97)

    def choose(self, options: Sequence[tuple[str, RGB]]) -> tuple[list[str], Tensor]:
        """A (word, colour) per sample: the words and the (N, 3, 1, 1) colours."""
        picks = [options[i] for i in self.indices(len(options))]
        return [w for w, _ in picks], self.colors([c for _, c in picks])

    def named(self, words: Sequence[str] = tuple(NAMED), fade: float = 0.25) -> tuple[list[str], Tensor]:
        """A named colour per sample, as `choose`, up to `fade` of the way to a warm grey of its lightness."""
        names, rgb = self.choose([(w, NAMED[w]) for w in words])
        grey = (rgb * 0.85).mean(dim=1, keepdim=True) + 0.1
        warm = torch.tensor([1.06, 1.0, 0.9], device=self.device)[None, :, None, None]
        return names, rgb + (grey * warm - rgb) * self.rand(0.05, fade)[:, None]

    def indices(self, options: int) -> list[int]:
        """One random option index per sample, as Python numbers for captions."""
        return [int(i) for i in self.pick(options).flatten().tolist()]

    def zero(self) -> Tensor:
        """(N, H, W) zeros."""
        return torch.zeros(self.n, *self.size, device=self.device)

    def image(self, color: Tensor) -> Tensor:
        """(N, 3, 1, 1) colours spread to (N, 3, H, W)."""
        return color.expand(self.n, 3, *self.size)


def _wrap(x: Tensor, k: int) -> Tensor:
    h, w = x.shape[-2:]
    rows = torch.arange(-k, h + k, device=x.device) % h
    cols = torch.arange(-k, w + k, device=x.device) % w
    return x[..., rows, :][..., cols]


def smooth(x: Tensor, lo: float | Tensor, hi: float | Tensor) -> Tensor:
    """Hermite step from 0 at `lo` to 1 at `hi`."""
    t = ((x - lo) / (hi - lo)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def lerp(a: float | Tensor, b: float | Tensor, t: Tensor) -> Tensor:
    """a (1 - t) + b t."""
    return a + (b - a) * t


def paint(base: Tensor, color: Tensor, mask: Tensor) -> Tensor:
    """`color` (N, 3, ...) over `base` (N, 3, H, W) by `mask` (N, H, W)."""
    return base + (color - base) * mask[:, None]


def ramp(t: Tensor, stops: Sequence[Tensor]) -> Tensor:
    """Piecewise linear colours (N, 3, H, W) at t (N, H, W) in [0, 1] through (N, 3, 1, 1) stops."""
    x = t.clamp(0.0, 1.0)[:, None] * (len(stops) - 1)
    out = stops[0] + (stops[1] - stops[0]) * x.clamp(0.0, 1.0)
    for i in range(1, len(stops) - 1):
        out = out + (stops[i + 1] - stops[i]) * (x - i).clamp(0.0, 1.0)
    return out


def unit(x: Tensor) -> Tensor:
    """Each sample of (N, H, W) scaled to fill [0, 1]."""
    lo, hi = x.amin(dim=(1, 2), keepdim=True), x.amax(dim=(1, 2), keepdim=True)
    return (x - lo) / (hi - lo).clamp(min=1e-5)
