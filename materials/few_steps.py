"""Four steps in place of many: a second U-Net, distilled from the first, that has its guidance inside."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from asd.seamless import SeamlessAxes, parse_axes
from materials.conditioning import condition_vector
from materials.prompt import encode_prompts
from materials.variation import Variation, start_noise

if TYPE_CHECKING:
    from materials.pipeline import MaterialPipeline, StepTold

_Network = TypeVar("_Network", bound=nn.Module)
LEVELS = (1.0, 0.9, 0.75, 0.5, 0.0)
"""Noise levels between the steps: those of the many-step model's schedule (flow shift 3) with four steps."""
FILE = "changes.safetensors"
SCALE = ".scale"
"""Ends the name of what an output channel's changes are multiplied by."""


def packed_changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What leads from one U-Net's weights to the other's, in a byte each: half the size of the second one's own.

    Each output channel has a scale of its own, so that its largest change is 127; a rounding is then at most 1/254 of
    that, well below the changes. Vectors, which are few, are kept as halves.
    """
    made: dict[str, Tensor] = {}
    for name, value in before.items():
        change = after[name].float() - value.float()
        if change.ndim < 2:
            made[name] = change.half()
            continue
        scale = change.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        made[name + SCALE] = scale
        made[name] = (change / scale.view(-1, *(1,) * (change.ndim - 1))).round().to(torch.int8).contiguous()
    return made


def changed(unet: _Network, changes: Mapping[str, Tensor]) -> _Network:
    """A copy of the network with packed changes added.

    Raises:
        ValueError: they are of another network.
    """
    made = copy.deepcopy(unet)
    state = made.state_dict()
    given = {name for name in changes if not name.endswith(SCALE)}
    if given != state.keys():
        raise ValueError(f"Expected changes of the U-Net's {len(state)} weights, but got {len(given)}")
    for name, value in state.items():
        change = changes[name]
        if change.shape != value.shape:
            raise ValueError(f"Expected changes of {name} {tuple(value.shape)}, but got {tuple(change.shape)}")
        scale = changes.get(name + SCALE)
        change = change.float() if scale is None else change.float() * scale.view(-1, *(1,) * (change.ndim - 1))
        value.copy_(value.float() + change)
    return made


def load_student(folder: Path, unet: _Network) -> _Network:
    """The four-step U-Net of a folder that `packed_changes` were written to.

    Raises:
        ValueError, OSError, SafetensorError: damaged, or of another U-Net.
    """
    return changed(unet, load_file(folder / FILE))


@torch.no_grad()
def sample_few(
    pipeline: MaterialPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    canvas: tuple[int, int],
    seamless: SeamlessAxes,
    scale: float,
    callback: StepTold | None = None,
    variation: Variation = Variation(),  # noqa: B008 - frozen
) -> Tensor:
    """As `MaterialPipeline.denoise` by the pipeline's student: one Euler step from each of LEVELS to the next."""
    from materials.pipeline import DOMAIN, FACTOR, one_by_one, stacked

    unet = pipeline.student
    assert unet is not None, "the pipeline has no student"
    n, device = len(prompts), unet.device
    if n > 1 and device.type == "cpu":
        return one_by_one(
            n, callback,
            lambda i, tell: sample_few(
                pipeline, [prompts[i]], [seeds[i]], canvas, seamless, scale, tell, variation
            ),
        )  # fmt: skip
    shape = (int(unet.config["in_channels"]), canvas[1] // FACTOR, canvas[0] // FACTOR)
    x = torch.stack([start_noise(shape, seed, variation) for seed in seeds]).to(device)
    text = stacked([encode_prompts(pipeline.tokenizer, pipeline.text_encoder, [prompt]) for prompt in prompts])
    fixed = [torch.full((n,), v, device=device) for v in (scale, *(float(w) for w in parse_axes(seamless)), DOMAIN)]
    condition = condition_vector(text.pooled.float(), *fixed).to(unet.dtype)
    for i, (now, then) in enumerate(pairwise(LEVELS)):
        v = unet(
            x.to(unet.dtype), x.new_full((n,), now * 1000), text.tokens, class_labels=condition,
            encoder_attention_mask=text.mask, return_dict=False,
        )[0].float()  # fmt: skip
        x = x + (then - now) * v
        if callback is not None:
            callback(i + 1, len(LEVELS) - 1)
    return x
