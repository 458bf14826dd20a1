"""`attention` and `explain`: one call, the first path that takes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .call import Call, checked_call
from .decisions import keep, look, recall
from .neighbourhood import Window
from .paths import Path, paths


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What `attention` would do with the same arguments.

    `why` is one clause. `workspace_bytes` is memory beyond inputs, output and gradients, at most; `flops` counts
    multiplications and additions of the forward pass, those under hidden corners of tiles included. `tiles` is
    (heads, queries, keys) of one step, or None where a library decides. `refused` says why each path preferred to this
    one was not taken.
    """

    path: str
    why: str
    workspace_bytes: int
    flops: int
    tiles: tuple[int, int, int] | None
    refused: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        text = f"Path '{self.path}': {self.why}. Workspace at most {self.workspace_bytes / 2**20:.2f} MiB, "
        text += f"{self.flops / 1e9:.3g} GFLOP"
        if self.tiles is not None:
            heads, queries, keys = self.tiles
            text += f", in steps of {heads} heads x {queries} queries x {keys} keys"
        refused = "; ".join(f"{name}: {reason}" for name, reason in self.refused)
        return f"{text}. " + (f"Not taken: {refused}." if refused else "No path is preferred to it.")


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    window: Window | tuple[tuple[int, int], tuple[int, int]] | None = None,
    wrap: str | None = None,
    budget_bytes: int | None = None,
) -> Tensor:
    """softmax(scale q kᵀ + mask) v, exactly, by the fastest path whose memory fits; never with an N x N buffer.

    Args:
        q: (B, H, Nq, D), float16, bfloat16, float32 or float64.
        k: (B, H, Nk, D), of the same dtype. k and v may lie on the CPU while q is on a GPU: they are streamed.
        v: (B, H, Nk, Dv).
        mask: broadcasts to (B, H, Nq, Nk); bool, True where a key takes part, or floating point, added to the scores.
            It doesn't shield from a NaN or an infinity in v.
        is_causal: query i sees keys 0 to i. Not together with a mask.
        scale: 1 / sqrt(D) if None.
        window: ((height, width), (radius_y, radius_x)): tokens lie on that grid row by row, Nq = Nk = height x width,
            and a query sees the keys at most radius_y rows and radius_x columns away. Cost follows the window.
        wrap: "none", "x", "y" or "xy": axes of the grid on which distances go round, as on a torus. None is "none".
        budget_bytes: most workspace beyond inputs, output and gradients; None leaves each path its own bounded tiles.

    Returns:
        (B, H, Nq, Dv) on the device and in the dtype of q. A row that sees no key is zero. NaN in a query gives a row
        of NaN, NaN in a key or value reaches every row that attends to it. Empty inputs give an empty or a zero output.
        Differentiable once in q, k, v and an additive mask; the backward pass keeps O(N) too.

    Raises:
        TypeError: dtypes, or arguments that aren't tensors.
        ValueError: shapes, devices, or a budget below the smallest tile; the sentence names the values.

    >>> import torch
    >>> q = torch.randn(1, 8, 64, 40)
    >>> attention(q, q, q, window=((8, 8), (1, 2)), wrap="xy").shape
    torch.Size([1, 8, 64, 40])
    """
    seen = None
    if mask is None and window is None and wrap is None:
        seen = look(q, k, v, is_causal, scale, budget_bytes)
        known = None if seen is None else recall(seen)
        if known is not None:
            return known[0].run(Call(q, k, v, None, is_causal, known[1], None, budget_bytes))
    call = checked_call(
        q, k, v, mask=mask, is_causal=is_causal, scale=scale, window=window, wrap=wrap, budget_bytes=budget_bytes
    )
    path, _ = choose(call)
    if seen is not None:
        keep(seen, path, call)
    return path.run(call)


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    window: Window | tuple[tuple[int, int], tuple[int, int]] | None = None,
    wrap: str | None = None,
    budget_bytes: int | None = None,
) -> Explanation:
    """Which path `attention` takes for the same arguments, why, and what it costs; nothing is computed.

    >>> import torch
    >>> q = torch.randn(1, 8, 64, 40)
    >>> explain(q, q, q).path, explain(q, q, q[..., :8]).path
    ('sdpa', 'tiled')
    """
    call = checked_call(
        q, k, v, mask=mask, is_causal=is_causal, scale=scale, window=window, wrap=wrap, budget_bytes=budget_bytes
    )
    path, refused = choose(call)
    return Explanation(
        path=path.name,
        why=path.why,
        workspace_bytes=path.workspace(call),
        flops=path.flops(call),
        tiles=path.tiles(call),
        refused=tuple(refused),
    )


def choose(call: Call) -> tuple[Path, list[tuple[str, str]]]:
    """The first path that takes a call, and why each one before it doesn't."""
    refused: list[tuple[str, str]] = []
    for path in paths():
        reason = path.supports(call)
        if reason is None:
            return path, refused
        refused.append((path.name, reason))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused)
    raise ValueError(
        f"Expected budget_bytes to fit a path for scores {call.scores}, but got {call.budget_bytes} ({reasons})."
    )
