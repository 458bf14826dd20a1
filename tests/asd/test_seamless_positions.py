"""Periodic positions on randomly initialised transformers of diffusers' own classes."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asd.seamless import Seamless, SeamlessAxes, SeamlessError
from asd.seamless_positions import turns
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import (  # noqa: E402 - the guard must come first
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
)
from diffusers.models.embeddings import apply_rotary_emb  # noqa: E402

AXES: tuple[SeamlessAxes, ...] = ("x", "y", "xy")
SIZE = (6, 10)
"""Tokens, (height, width)."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lively(model: Any) -> Any:
    """Fresh transformers gate their blocks to next to nothing; wider weights make positions matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(noise(*parameter.shape, seed=len(name)) / math.sqrt(parameter.shape[1]))
    return model.eval().requires_grad_(False)


def flux() -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 20,
        "num_attention_heads": 2,
    }
    return lively(
        FluxTransformer2DModel(
            in_channels=4, joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 8, 8), **shape
        )
    )


def flux2() -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 24,
        "num_attention_heads": 2,
    }
    return lively(
        Flux2Transformer2DModel(
            in_channels=4,
            joint_attention_dim=8,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 8, 8, 4),
            guidance_embeds=False,
            **shape,
        )
    )


def chroma() -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 20,
        "num_attention_heads": 2,
    }
    with warnings.catch_warnings():
        # diffusers' Chroma imports FluxPosEmbed from where diffusers itself calls it deprecated
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)
        model = ChromaTransformer2DModel(
            in_channels=4,
            joint_attention_dim=8,
            axes_dims_rope=(4, 8, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
            **shape,
        )
    return lively(model)


ROTARY: dict[str, Any] = {"flux": flux, "flux2": flux2, "chroma": chroma}


def ids(model: Any, shift: tuple[int, int] = (0, 0)) -> Tensor:
    made = torch.zeros(*SIZE, len(model.pos_embed.axes_dim))
    made[..., 1] = torch.arange(SIZE[0])[:, None] + shift[0]
    made[..., 2] = torch.arange(SIZE[1])[None] + shift[1]
    return made.reshape(SIZE[0] * SIZE[1], -1)


def predict(model: Any, x: Tensor, img_ids: Tensor, words: int = 3) -> Tensor:
    """x (1, C, H, W) to the same, through tokens."""
    pooled = {"pooled_projections": noise(1, 8, seed=2)} if isinstance(model, FluxTransformer2DModel) else {}
    with torch.no_grad():
        made = model(
            hidden_states=x.flatten(2).transpose(1, 2),
            encoder_hidden_states=noise(1, words, 8, seed=1),
            timestep=torch.tensor([0.5]),
            img_ids=img_ids,
            txt_ids=torch.zeros(words, img_ids.shape[1]),
            return_dict=False,
            **pooled,
        )[0]
    return made.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", list(ROTARY))
def test_image_logits_depend_on_the_displacement_on_the_torus_alone(name: str, axes: SeamlessAxes) -> None:
    model = ROTARY[name]()
    height, width = SIZE
    dim = sum(model.pos_embed.axes_dim)
    query, key = (noise(1, 1, 1, dim, seed=s).expand(-1, -1, height * width, -1) for s in (3, 4))

    rotate: Any = apply_rotary_emb  # Any: diffusers says that it returns a pair, which it doesn't

    def logits(place: tuple[Tensor, Tensor]) -> Tensor:
        made = rotate(query, place)[0, 0] @ rotate(key, place)[0, 0].T
        return made.reshape(height, width, height, width)

    seen: list[tuple[Tensor, Tensor]] = []
    with Seamless(model, axes):
        handle = model.pos_embed.register_forward_hook(lambda m, a, out: seen.append(out))
        predict(model, noise(1, 4, *SIZE), ids(model))
        handle.remove()
    # the image's part of what the model itself was given
    made = logits((seen[0][0][-height * width :], seen[0][1][-height * width :]))
    for axis, wraps in ((0, "y" in axes), (1, "x" in axes)):
        moved = made.roll((2, 2), (axis, axis + 2))
        if wraps:
            torch.testing.assert_close(moved, made, rtol=0, atol=1e-4)
        else:
            assert (moved - made).abs().max() > 0.1
    # neighbours across the border are as near as those inside, and not all places are one
    assert (made - made.roll(1, 3)).abs().max() > 0.1


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", list(ROTARY))
def test_one_period_further_is_the_same(name: str, axes: SeamlessAxes) -> None:
    model = ROTARY[name]()
    x = noise(1, 4, *SIZE)
    shift = (2 * SIZE[0] * ("y" in axes), -SIZE[1] * ("x" in axes))
    assert (predict(model, x, ids(model, shift)) - predict(model, x, ids(model))).abs().max() > 1e-3
    with Seamless(model, axes):
        made = predict(model, x, ids(model))
        assert torch.equal(predict(model, x, ids(model, shift)), made)
        # by a part of the period it is not: text has a place of its own
        assert (predict(model, x, ids(model, (shift[0] // 4, shift[1] // 3))) - made).abs().max() > 1e-3


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", list(ROTARY))
def test_without_text_the_whole_model_commutes_with_any_roll(name: str, axes: SeamlessAxes) -> None:
    model = ROTARY[name]()
    x = noise(1, 4, *SIZE)
    step = (2 * ("y" in axes), 3 * ("x" in axes))

    def f(x: Tensor) -> Tensor:
        return predict(model, x, ids(model), words=0)

    assert (f(x.roll(step, (-2, -1))) - f(x).roll(step, (-2, -1))).abs().max() > 1e-3
    with Seamless(model, axes):
        torch.testing.assert_close(f(x.roll(step, (-2, -1))), f(x).roll(step, (-2, -1)), rtol=0, atol=1e-4)


def test_extent_serves_calls_on_parts_of_a_torus() -> None:
    model = flux()
    x = noise(1, 4, *SIZE)
    with Seamless(model, "xy"):
        whole = predict(model, x, ids(model))
    with Seamless(model, "xy", extent=SIZE):
        assert torch.equal(predict(model, x, ids(model)), whole)
        # a part that lies over the border equals the same part beyond it
        part = ids(model).reshape(*SIZE, 3)[:, [8, 9, 0, 1]].reshape(-1, 3)
        beyond = part.clone()
        beyond[:, 2] += SIZE[1] * (part[:, 2] < 5)
        cells = x[..., [8, 9, 0, 1]]
        assert torch.equal(predict(model, cells, part), predict(model, cells, beyond))


def test_reference_images_do_not_stretch_the_torus() -> None:
    # Flux Kontext appends the tokens of a reference, told apart by the first id
    model = flux()
    x, reference = noise(1, 4, *SIZE), ids(model)
    reference[:, 0] = 1
    reference[:, 1:] *= 3
    both = torch.cat([x.flatten(2), x.flatten(2)], 2)[..., None]
    with Seamless(model, "x"):
        made = predict(model, both, torch.cat([ids(model), reference]))
        further = predict(model, both, torch.cat([ids(model, (0, SIZE[1])), reference]))
    assert torch.equal(made, further)


@pytest.mark.parametrize("extent", [6, 10, 64, 100.0])
def test_turns_are_whole_and_nearest(extent: float) -> None:
    frequencies = 10000.0 ** -(torch.arange(0, 56, 2, dtype=torch.float64) / 56)
    made = turns(frequencies, extent)
    assert torch.equal(made, made.round()) and made[-1] == 0
    assert ((made * 2 * math.pi / extent - frequencies).abs() <= math.pi / extent + 1e-12).all()


def sd3() -> Any:
    torch.manual_seed(0)
    return lively(
        SD3Transformer2DModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            caption_projection_dim=32,
            pooled_projection_dim=8,
            pos_embed_max_size=12,
        )
    )


def pixart() -> Any:
    torch.manual_seed(0)
    return lively(
        PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            cross_attention_dim=32,
            caption_channels=8,
            sample_size=16,
            use_additional_conditions=False,
        )
    )


ADDED: dict[str, Any] = {"sd3": sd3, "pixart": pixart}


def added(model: Any, x: Tensor) -> Tensor:
    words = {"encoder_hidden_states": noise(1, 3, 8, seed=1), "timestep": torch.tensor([500])}
    if isinstance(model, SD3Transformer2DModel):
        words["pooled_projections"] = noise(1, 8, seed=2)
    else:
        words["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        return model(hidden_states=x, return_dict=False, **words)[0]


def table(model: Any, rows: int, columns: int) -> Tensor:
    """(rows, columns, D): what the model adds to tokens that are zero otherwise."""
    embed = model.pos_embed
    zero = torch.zeros(1, 4, 2 * rows, 2 * columns)
    with torch.no_grad():
        return (embed(zero) - embed.proj.bias)[0].reshape(rows, columns, -1)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", list(ADDED))
def test_added_positions_are_those_of_a_torus(name: str, axes: SeamlessAxes) -> None:
    model = ADDED[name]()
    plain = table(model, *SIZE)
    with Seamless(model, axes):
        made = table(model, *SIZE)
    # their products depend on the displacement on the torus alone
    gram = torch.einsum("ijc,klc->ijkl", made, made)
    before = torch.einsum("ijc,klc->ijkl", plain, plain)
    for dim, wraps in ((0, "y" in axes), (1, "x" in axes)):
        moved = gram.roll((1, 1), (dim, dim + 2))
        if wraps:
            torch.testing.assert_close(moved, gram, rtol=0, atol=1e-4)
        else:
            # an axis not asked for keeps its positions: x is in the first half of the channels, y in the second
            half = slice(16) if dim else slice(16, 32)
            torch.testing.assert_close(made[..., half], plain[..., half], rtol=0, atol=1e-5)
        assert (before.roll((1, 1), (dim, dim + 2)) - before).abs().max() > 0.1
    # as long as every other embedding, and no two tokens in one place
    torch.testing.assert_close(made.norm(dim=-1), plain.norm(dim=-1), rtol=0, atol=1e-4)
    assert torch.pdist(made.flatten(0, 1)).min() > 0.1


@pytest.mark.parametrize("name", list(ADDED))
def test_slow_channels_keep_the_middle_of_the_image(name: str) -> None:
    model = ADDED[name]()
    plain = table(model, 7, 7)
    with Seamless(model, "xy"):
        made = table(model, 7, 7)
    torch.testing.assert_close(made[3, 3], plain[3, 3], rtol=0, atol=1e-5)


def test_sana_needs_only_its_convolutions() -> None:
    torch.manual_seed(0)
    model = lively(
        SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=8,
            sample_size=8,
        )
    )
    x, step = noise(1, 4, *SIZE), (2, 3)

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x, noise(1, 3, 8, seed=1), torch.tensor([500]), return_dict=False)[0]

    plain = f(x)
    assert (f(x.roll(step, (-2, -1))) - plain.roll(step, (-2, -1))).abs().max() > 1e-3
    with Seamless(model, "xy"):
        torch.testing.assert_close(f(x.roll(step, (-2, -1))), f(x).roll(step, (-2, -1)), rtol=0, atol=1e-4)
    assert torch.equal(f(x), plain)
    with pytest.raises(SeamlessError, match="none has any"):
        Seamless(model, "x", extent=SIZE).__enter__()


def state(model: nn.Module) -> list[tuple[set[str], int, int]]:
    return [
        (set(m.__dict__), len(m._forward_pre_hooks), sum(b is not None for b in m._buffers.values()))
        for m in model.modules()
    ]


@pytest.mark.parametrize("name", [*ROTARY, *ADDED])
def test_leaving_restores_everything_and_contexts_nest(name: str) -> None:
    rotary = name in ROTARY
    model = (ROTARY | ADDED)[name]()
    x = noise(1, 4, *(SIZE if rotary else (2 * SIZE[0], 2 * SIZE[1])))

    def f() -> Tensor:
        return predict(model, x, ids(model)) if rotary else added(model, x)

    before, plain = state(model), f()
    with Seamless(model, "x"):
        alone = f()
    with pytest.raises(RuntimeError, match="inside"), Seamless(model, "xy"):
        both = f()
        assert (both - plain).abs().max() > 1e-4
        with Seamless(model, "x"):
            assert torch.equal(f(), alone)
        assert torch.equal(f(), both)
        raise RuntimeError("inside")
    assert state(model) == before
    assert torch.equal(f(), plain)
    with Seamless(model, "none"):
        assert torch.equal(f(), plain)


def test_models_without_a_way_are_errors() -> None:
    aura = AuraFlowTransformer2DModel(
        sample_size=8, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=2
    )
    with pytest.raises(SeamlessError, match=r"made periodic .*but got AuraFlowTransformer2DModel"):
        Seamless(aura, "x").__enter__()
    # its rotary positions come from outside, in each call: nothing in the model could be patched
    hunyuan = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        sample_size=8,
        patch_size=2,
    )
    with pytest.raises(SeamlessError, match="but got HunyuanDiT2DModel"):
        Seamless([hunyuan], "xy").__enter__()
    with Seamless([aura, hunyuan], "none"):
        pass


def test_learnt_tables_and_impossible_sizes_are_errors() -> None:
    model = sd3()
    with pytest.raises(SeamlessError, match="at most 12 tokens a side, but got 13x6"), Seamless(model, "xy"):
        added(model, noise(1, 4, 12, 26))
    model.pos_embed.pos_embed += 0.1 * noise(*model.pos_embed.pos_embed.shape)
    with pytest.raises(SeamlessError, match="a table that was learnt"):
        Seamless(model, "y").__enter__()
    with pytest.raises(SeamlessError, match="relative to the image"):
        Seamless(pixart(), "y", extent=SIZE).__enter__()
    with pytest.raises(SeamlessError, match="at least 1, but got"):
        Seamless(flux(), "xy", extent=(0, 3))
    rotary = flux()
    with pytest.raises(SeamlessError, match="got neither"), Seamless(rotary, "xy"):
        rotary.pos_embed(ids(rotary))
