"""Snow and ice."""

from __future__ import annotations

from materials.procedural.organic_fields import RGB, Brush, lerp, paint, ramp, smooth
from materials.procedural.organic_ground import SOIL, soil_layers
from materials.procedural.organic_look import Look, describe, on, organic


@organic("snow")
def snow(b: Brush) -> Look:
    """Snow: drifts, wind crust, grains, sometimes thawed to the soil."""
    fresh = b.colors([(0.90, 0.92, 0.95)] * b.n, 0.01)
    shade = b.colors([(0.66, 0.72, 0.82)] * b.n, 0.02)
    f = b.freq(2, 4)
    drift = b.noise(f, 4, 0.45, uv=b.warp(0.08, 2, 2), stretch=(1.0, 2.0))
    crust = b.noise(f * 3, 4, 0.5, ridged=True, uv=b.warp(0.05, 4, 3), stretch=(0.7, 1.8)) * b.rand(0.0, 1.0)
    lump, fine, grain = b.noise(12, 4, 0.6), b.noise(40, 3, 0.7), b.noise(110, 1)
    height = 0.45 + 0.24 * drift + 0.16 * (crust - 0.6) + 0.07 * lump + 0.025 * fine + 0.01 * grain
    tone = 0.66 + 0.3 * drift + 0.25 * (crust - 0.6) + 0.15 * lump + 0.09 * fine + 0.05 * grain
    color = ramp(tone, [shade * 0.92, shade * 1.08, fresh * 0.97, fresh * 1.02])
    sparkle = smooth(b.noise(120, 1), 0.5, 0.75) * smooth(b.noise(30, 2), 0.0, 0.4)
    color = color + 0.08 * sparkle[:, None]
    names, base = b.choose(SOIL)
    patchy, dirty = b.flag(0.3), b.flag(0.2)
    bare = b.mask(b.freq(2, 3), patchy * b.rand(0.15, 0.5), 0.05, 5, 0.66, bias=0.25 * (0.45 - height)) * patchy
    earth, ground, soil_rough = soil_layers(b, base, patchy * 0.25)
    rim = smooth(b.blur(bare, 0.015), 0.02, 0.6) * (1.0 - bare)
    color = paint(color, shade * 0.95, rim * 0.5)
    grime = smooth(b.noise(5, 5, 0.7), -0.3, 0.6) * dirty
    color = paint(color, b.colors([(0.48, 0.43, 0.37)] * b.n) * (1.0 + 0.2 * fine)[:, None], grime * 0.5)
    color = paint(color, earth * 0.85, bare) * b.cavity(height, 0.02, 0.25)
    height = lerp(height, 0.1 + 0.2 * ground, bare)
    look = Look(
        basecolor=color,
        height=height,
        roughness=lerp(0.62 + 0.1 * lump - 0.2 * sparkle, soil_rough * 0.85, bare),
        metallic=b.zero(),
        size_m=b.rand(1.5, 4.0),
        relief=b.rand(0.03, 0.07),
    )
    look.captions = [
        describe(
            w,
            ("snow", "alpine snow", "fresh snow", "snow ground", "polar snow", "snow field")
            if not d
            else ("snow", "snow ground", "slush"),
            color="white" if w.random() < 0.3 else "",
            states=["dirty"] if d else [],
            tails=[w.choice(("with dirt", f"with {n} dirt", "with bare ground"))] if p else [],
        )
        for w, n, p, d in zip(b.words, names, on(patchy), on(dirty), strict=True)
    ]
    return look


ICE: tuple[tuple[str, RGB, RGB], ...] = (
    ("blue", (0.30, 0.52, 0.68), (0.72, 0.85, 0.92)),
    ("light blue", (0.52, 0.70, 0.82), (0.85, 0.92, 0.96)),
    ("turquoise", (0.28, 0.57, 0.62), (0.72, 0.88, 0.88)),
    ("white", (0.70, 0.77, 0.82), (0.92, 0.94, 0.96)),
    ("dark", (0.13, 0.22, 0.29), (0.45, 0.57, 0.64)),
)


@organic("ice")
def ice(b: Brush) -> Look:
    """Lake or glacier ice: clouds, cracks at several depths, bubbles, snow dust."""
    picks = [ICE[i] for i in b.indices(len(ICE))]
    deep, pale = b.colors([p[1] for p in picks], 0.02), b.colors([p[2] for p in picks], 0.015)
    cloud = b.noise(2, 5, 0.6, uv=b.warp(0.12, 2, 4))
    mid, fine = b.noise(8, 4, 0.6), b.noise(60, 2, 0.7)
    veins = b.zero()
    for f, strength in ((b.freq(2, 3), 1.0), (b.freq(4, 6), 0.7), (b.freq(8, 12), 0.45)):
        edge, cell = b.edges(f, uv=b.warp(0.14 / f, f, 4))
        side = b.flat(3, 3)
        core = 1.0 - smooth(edge, 0.0, 0.03 + 0.02 * side)
        halo = smooth(0.3 - edge, 0.0, 0.3) * (0.2 + 0.4 * (cell > 0.5))
        veins = veins + strength * (core + 0.4 * halo) * smooth(side, 0.25, 0.7)
    bubble, rb, _, _ = b.splats(
        b.freq(24, 40), lambda a, c, r, w: 0.06 + 0.22 * r * r - (a * a + c * c).sqrt(), density=b.rand(0, 0.4)
    )
    dots = smooth(bubble, 0.0, 0.05)
    tone = 0.35 + 0.35 * cloud + 0.1 * mid + 0.05 * fine
    color = ramp(tone, [deep * 0.75, deep, deep * 0.5 + pale * 0.5, pale])
    color = paint(color, pale * 1.04, (veins * 0.65 + 0.5 * dots * rb).clamp(0.0, 0.95))
    snowy = b.flag(0.35)
    dust = b.mask(2, snowy * b.rand(0.2, 0.5), 0.2, 5, 0.66) * snowy
    color = paint(color, b.colors([(0.90, 0.92, 0.95)] * b.n, 0.01) * (1.0 + 0.05 * fine)[:, None], dust * 0.92)
    height = 0.5 + 0.14 * cloud + 0.05 * mid - 0.12 * veins.clamp(0.0, 1.2) + dust * (0.12 + 0.05 * fine)
    rough = b.rand(0.06, 0.16) + 0.05 * mid.abs() + 0.16 * veins.clamp(0.0, 1.0) + 0.03 * fine
    look = Look(
        basecolor=color,
        height=height,
        roughness=lerp(rough, 0.7, dust),
        metallic=b.zero(),
        size_m=b.rand(1.0, 4.0),
        relief=b.rand(0.006, 0.015),
    )
    look.captions = [
        describe(
            w,
            ("ice", "glacial ice", "lake ice", "frozen lake", "polar ice"),
            color=p[0],
            tails=[w.choice(("with snow", "covered with snow"))] if s else [],
        )
        for w, p, s in zip(b.words, picks, on(snowy), strict=True)
    ]
    return look
