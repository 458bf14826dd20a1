"""Textiles and skins: woven cloth, knit, carpet, leather."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from materials.procedural.organic_fields import RGB, Brush, lerp, paint, ramp, smooth
from materials.procedural.organic_look import Look, describe, dirt, on, organic

CLOTH = (
    "red",
    "orange",
    "yellow",
    "green",
    "olive",
    "teal",
    "turquoise",
    "blue",
    "light blue",
    "navy",
    "purple",
    "pink",
    "brown",
    "dark brown",
    "beige",
    "cream",
    "white",
    "grey",
    "dark grey",
    "black",
)
NATURAL: tuple[tuple[str, RGB], ...] = (
    ("natural", (0.70, 0.60, 0.45)),
    ("beige", (0.74, 0.66, 0.53)),
    ("brown", (0.45, 0.33, 0.22)),
)


def _yarn(b: Brush, x: Tensor, y: Tensor, turns: float) -> Tensor:
    """Twisted fibres of a yarn: x across in [-1, 1], y along in yarn widths; about [-1, 1]."""
    return torch.sin(2.0 * math.pi * (y * turns + 0.35 * x))


def _weave(
    b: Brush, base: Tensor, second: Tensor, nx: Tensor, ny: Tensor, kind: Tensor, gap: Tensor
) -> tuple[Tensor, Tensor]:
    """Colour (N, 3, H, W) and height (N, H, W) in [0, 1] of warp and weft.

    `kind` (N, 1, 1): 0 plain, 1 twill, 2 basket, 3 rib; `gap` is the open share between yarns.
    """
    u, v = b.warp(0.004, 8, 3)
    x, y = u * nx, v * ny
    ix, iy = torch.minimum(x.long(), nx - 1), torch.minimum(y.long(), ny - 1)
    fx, fy = x - ix, y - iy
    plain = (ix + iy) % 2 < 1
    twill = (ix + iy) % 4 < 2
    basket = (ix // 2 + iy // 2) % 2 < 1
    rib = (ix + iy // 2) % 2 < 1
    up = torch.where(kind == 0, plain, torch.where(kind == 1, twill, torch.where(kind == 2, basket, rib)))
    sx, sy = (2.0 * fx - 1.0) / (1.0 - gap), (2.0 * fy - 1.0) / (1.0 - gap)
    round_x, round_y = (1.0 - sx * sx).clamp(min=0.0).sqrt(), (1.0 - sy * sy).clamp(min=0.0).sqrt()
    bow_x, bow_y = 1.0 - 0.35 * (2.0 * fy - 1.0).square(), 1.0 - 0.35 * (2.0 * fx - 1.0).square()
    sign = torch.where(up, 1.0, -1.0)
    hx = round_x * (0.55 + 0.3 * sign * bow_x) * (round_x > 0)
    hy = round_y * (0.55 - 0.3 * sign * bow_y) * (round_y > 0)
    is_warp = hx > hy
    zero = torch.zeros_like(ix)
    thread = torch.where(is_warp, b.hash(ix * 2 + zero), b.hash(iy * 2 + 1))
    spin = torch.where(is_warp, _yarn(b, sx, y * 1.0, 1.0), _yarn(b, sy, x * 1.0, 1.0))
    slub = torch.where(is_warp, b.noise(6, 3, 0.6, stretch=(9.0, 0.7)), b.noise(6, 3, 0.6, stretch=(0.7, 9.0)))
    height = torch.maximum(hx, hy)
    tint = torch.where(is_warp[:, None], base, second)
    tone = (0.42 + 0.62 * height) * (1.0 + 0.13 * (thread - 0.5) + 0.14 * slub + 0.07 * spin)
    return tint * tone[:, None], height + 0.05 * spin + 0.05 * slub


def _finish(b: Brush, color: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """Fuzz, fading and soft folds every textile has."""
    fuzz, cloud = b.noise(100, 2, 0.8), b.noise(2, 4, 0.55)
    return color * (1.0 + 0.07 * fuzz + 0.1 * cloud)[:, None], height + 0.04 * fuzz


@organic("fabric_woven")
def fabric_woven(b: Brush) -> Look:
    """Woven cloth: plain, twill, basket or ribbed, one or two colours, sometimes striped or checked."""
    names, base = b.named(CLOTH)
    _, other = b.named(("white", "beige", "black", "grey", "cream"), 0.4)
    kind = b.pick(4)
    worn, dirty = b.flag(0.2), b.flag(0.15)
    nx, ny = b.cells(b.freq(18, 44), 4)
    style = b.pick(6)
    striped, checked = (style == 0).float(), (style == 1).float()
    bands = (1 + b.pick(4)).float()
    across = (torch.floor(b.u * bands * 4) % 4 < 1).float()
    down = (torch.floor(b.v * bands * 4) % 4 < 1).float()
    second = lerp(base, other, b.rand(0.0, 0.3)[:, None])
    warp_color = lerp(b.image(base), b.image(other), ((striped + checked) * across)[:, None])
    weft_color = lerp(b.image(second), b.image(other), (checked * down)[:, None])
    color, height = _weave(b, warp_color, weft_color, nx, ny, kind, b.rand(0.0, 0.18))
    color, height = _finish(b, color, height)
    thin = b.mask(3, 0.35, 0.35, 5, 0.65) * worn
    color = paint(color, color * 0.75 + 0.2, thin * 0.7)
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.86 + 0.08 * (1.0 - height),
        metallic=b.zero(),
        size_m=nx * b.rand(0.0012, 0.003),
        relief=0.35 / nx,
    )
    dirt(b, look, dirty)
    nouns = (
        ("woven fabric", "fabric", "cloth", "linen fabric"),
        ("twill fabric", "fabric", "cotton twill"),
        ("basket weave fabric", "woven fabric", "canvas"),
        ("ribbed fabric", "woven fabric", "textile"),
    )
    look.captions = [
        describe(
            w,
            nouns[k],
            color=c,
            states=[s for s, x in (("striped", st), ("checked", ch), ("worn", o), ("dirty", d)) if x],
        )
        for w, c, k, st, ch, o, d in zip(
            b.words, names, kind.flatten().tolist(), on(striped), on(checked), on(worn), on(dirty), strict=True
        )
    ]
    return look


@organic("fabric_denim")
def fabric_denim(b: Brush) -> Look:
    """Denim and burlap: coarse twill with a pale weft, or loose jute."""
    jute = b.flag(0.4)
    dye, blue = b.choose(
        (
            ("blue", (0.20, 0.28, 0.44)),
            ("dark blue", (0.12, 0.16, 0.28)),
            ("light blue", (0.46, 0.56, 0.68)),
            ("black", (0.14, 0.14, 0.15)),
            ("grey", (0.40, 0.41, 0.43)),
        )
    )
    raw, hemp = b.choose(NATURAL)
    pick = jute[:, None] > 0.5
    base = torch.where(pick, hemp, blue)
    weft = torch.where(pick, hemp * 0.95, lerp(blue, torch.full_like(blue, 0.75), b.rand(0.3, 0.7)[:, None]))
    f = torch.where(jute > 0.5, b.freq(14, 24), b.freq(30, 46))
    nx, ny = b.cells(f, 4)
    kind = torch.where(jute > 0.5, 0, 1)
    color, height = _weave(b, b.image(base), b.image(weft), nx, ny, kind, lerp(0.02, 0.3, jute))
    color, height = _finish(b, color, height)
    worn = b.flag(0.35)
    faded = b.mask(2, 0.4, 0.5, 5, 0.6) * worn
    color = paint(color, color * 0.7 + 0.26, faded * 0.7)
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.9 + 0.06 * (1.0 - height),
        metallic=b.zero(),
        size_m=nx * lerp(0.001, 0.003, jute),
        relief=0.35 / nx,
    )
    look.captions = [
        describe(
            w,
            ("burlap", "jute fabric", "sackcloth", "coarse woven jute")
            if j
            else ("denim", "denim fabric", "jeans fabric"),
            color=h if j else d,
            states=["worn"] if o else [],
        )
        for w, j, d, h, o in zip(b.words, on(jute), dye, raw, on(worn), strict=True)
    ]
    return look


@organic("fabric_knit")
def fabric_knit(b: Brush) -> Look:
    """Knitted wool: columns of interlocked V stitches, with plain or striped yarn."""
    names, base = b.named(CLOTH)
    _, other = b.named(("white", "cream", "beige", "grey", "black"), 0.3)
    nx, ny = b.cells(b.freq(9, 22), 2)
    ny = (ny * 5 // 8) * 2
    u, v = b.warp(0.008, 5, 3)
    x, y = u * nx, v * ny
    ix = torch.minimum(x.long(), nx - 1)
    side = (x - ix) * 2.0 - 1.0
    slant = side.abs()
    yy = (y - 0.62 * slant) % ny
    iy = torch.minimum(yy.long(), ny - 1)
    fy = yy - iy
    a = slant - 0.47
    c = (fy - 0.5) * 1.05
    d = (a / 0.55).square() + (c / 0.56).square()
    loop = (1.0 - d).clamp(min=0.0).sqrt()
    fibre = torch.sin(18.0 * c + 9.0 * a + 6.28 * b.hash(ix * 512 + iy)) * 0.5 + b.noise(70, 3, 0.75) * 0.8
    striped = b.flag(0.25)
    row = (torch.floor(iy * (2 + b.pick(3)).float() * 2.0 / ny) % 2) * striped
    yarn = lerp(b.image(base), b.image(other), row[:, None])
    tone = (0.32 + 0.66 * loop) * (1.0 + 0.1 * fibre + 0.14 * (b.hash(ix * 512 + iy) - 0.5))
    color, height = _finish(b, yarn * tone[:, None], loop * 0.9 + 0.07 * fibre)
    worn = b.flag(0.15)
    pill = b.mask(10, 0.2, 0.15, 4, 0.7) * worn
    color, height = paint(color, color * 0.8 + 0.15, pill * 0.6), height + 0.15 * pill
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.92 + 0.05 * (1.0 - loop),
        metallic=b.zero(),
        size_m=nx * b.rand(0.006, 0.01),
        relief=0.45 / nx,
    )
    look.captions = [
        describe(
            w,
            ("knitted fabric", "wool knit", "knitted wool", "knit sweater fabric"),
            color=c,
            states=[s for s, t in (("striped", st), ("worn", o)) if t],
        )
        for w, c, st, o in zip(b.words, names, on(striped), on(worn), strict=True)
    ]
    return look


@organic("carpet")
def carpet(b: Brush) -> Look:
    """Tufted carpet: dense pile with wear, plain or with a woven motif."""
    names, base = b.named(CLOTH)
    _, other = b.named(("red", "navy", "cream", "brown", "black", "beige", "olive"), 0.3)
    f = b.freq(40, 62)
    tuft, r, _, _ = b.splats(f, lambda a, c, r, w: 0.2 + 0.75 * w - 0.9 * (a * a + c * c * 2.2))
    curl = b.noise(64, 3, 0.8)
    motif = b.flag(0.35)
    k = (2 + b.pick(3)).float()
    du, dv = ((b.u * k) % 1.0 - 0.5).abs(), ((b.v * k) % 1.0 - 0.5).abs()
    diamond, ring = du + dv, (du.square() + dv.square()).sqrt()
    kind = b.pick(3)
    shape = torch.where(
        kind == 0, (diamond * 6.0) % 1.0, torch.where(kind == 1, (ring * 6.0) % 1.0, torch.maximum(du, dv) * 5 % 1.0)
    )
    figure = smooth(shape + 0.12 * curl, 0.5, 0.62) * motif
    pile = smooth(tuft, -0.1, 0.9)
    lean, worn, dirty = b.noise(3, 4, 0.6), b.flag(0.25), b.flag(0.2)
    flat = b.mask(2, 0.35, 0.3, 4) * worn
    yarn = lerp(b.image(base), b.image(other), figure[:, None])
    tone = (0.42 + 0.55 * pile) * (1.0 + 0.14 * (r - 0.5) + 0.17 * curl + 0.14 * lean)
    color = paint(yarn * tone[:, None], yarn * 0.72 + 0.08, flat * 0.5)
    height = (0.3 + 0.55 * pile + 0.14 * curl) * (1.0 - 0.4 * flat) + 0.08 * lean
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.93 + 0.05 * curl,
        metallic=b.zero(),
        size_m=f * b.rand(0.006, 0.012),
        relief=0.6 / f,
    )
    dirt(b, look, dirty)
    look.captions = [
        describe(
            w,
            ("carpet", "carpet floor", "rug", "wool carpet"),
            color=c,
            states=[s for s, t in (("worn", o), ("dirty", d)) if t],
            tails=["with pattern"] if m else [],
        )
        for w, c, o, d, m in zip(b.words, names, on(worn), on(dirty), on(motif), strict=True)
    ]
    return look


HIDES: tuple[tuple[str, RGB], ...] = (
    ("brown", (0.38, 0.23, 0.13)),
    ("dark brown", (0.22, 0.13, 0.09)),
    ("light brown", (0.58, 0.39, 0.23)),
    ("tan", (0.66, 0.48, 0.31)),
    ("black", (0.10, 0.095, 0.095)),
)


@organic("leather")
def leather(b: Brush) -> Look:
    """Leather: pebbled grain, creases, scuffs; natural or dyed."""
    hide, tan = b.choose(HIDES)
    dye, dyed = b.named(
        (
            "red",
            "green",
            "blue",
            "white",
            "yellow",
            "orange",
            "olive",
            "grey",
            "purple",
            "pink",
            "beige",
            "navy",
            "teal",
        )
    )
    pick = b.flag(0.5)
    base = torch.where(pick[:, None] > 0.5, dyed, tan)
    f = b.freq(22, 50)
    uv = b.warp(0.3 / f, f, 3)
    edge, cell = b.edges(f, 0.9, uv=uv)
    grain = smooth(edge, 0.0, 0.32)
    big, _ = b.edges((f / 5.0).round(), uv=b.warp(0.3 / f, f * 0.5, 4))
    crease = (1.0 - smooth(big, 0.0, 0.12)) * smooth(b.noise(3, 3), 0.0, 0.7) * b.rand(0.0, 0.6)
    fold = b.noise(3, 5, 0.55, ridged=True, uv=b.warp(0.1, 2, 3), stretch=(1.0, 2.0))
    wrinkle = smooth(fold, 0.86, 0.99) * b.flag(0.5)
    cloud, fine = b.noise(2, 5, 0.6), b.noise(80, 2, 0.7)
    worn = b.flag(0.35)
    scuff = b.mask(3, 0.35, 0.3, 5, 0.68) * worn
    height = 0.55 * grain + 0.12 * (cell - 0.5) + 0.1 * cloud - 0.35 * crease - 0.4 * wrinkle + 0.03 * fine
    tone = 0.52 + 0.34 * (grain - 0.7) + 0.12 * (cell - 0.5) + 0.2 * cloud + 0.06 * fine - 0.3 * crease - 0.25 * wrinkle
    color = ramp(tone, [base * 0.42, base * 0.88, base * 1.06, base * 1.22 + 0.04])
    color = paint(color, base * 0.8 + 0.18, scuff * (0.25 + 0.5 * grain))
    rough = b.rand(0.35, 0.6) + 0.14 * (1.0 - grain) + 0.06 * cloud + 0.22 * scuff + 0.1 * crease
    look = Look(
        basecolor=color,
        height=height,
        roughness=rough,
        metallic=b.zero(),
        size_m=f * b.rand(0.002, 0.006),
        relief=0.16 / f,
    )
    look.captions = [
        describe(
            w,
            ("leather", "leather", "leather upholstery", "grained leather", "leather hide"),
            color=d if p else h,
            states=["worn"] if o else [],
        )
        for w, h, d, p, o in zip(b.words, hide, dye, on(pick), on(worn), strict=True)
    ]
    return look
