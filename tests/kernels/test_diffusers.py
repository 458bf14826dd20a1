"""`install` on real, tiny diffusers models: same outputs, only default processors, exact restoration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

import diffusers  # noqa: E402 - the guard must come first
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel  # noqa: E402
from diffusers.models import attention_dispatch  # noqa: E402
from diffusers.models.attention_processor import (  # noqa: E402
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
)

from kernels import diffusers as ours  # noqa: E402
from kernels.diffusers import Processor, install  # noqa: E402

TOLERANCE = 2e-5
"""Float32 through a dozen layers, outputs of order 1."""
Run = Callable[[], Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unet(layout: str) -> tuple[nn.Module, Run]:
    """A UNet in the layout of SD 1.5, 2.1 or XL, and a call with a padding mask over its words."""
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 12,
        "norm_num_groups": 4,
    }
    kwargs: dict[str, Any] = {
        "1.5": {"attention_head_dim": 2},
        "2.1": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
        "XL": {
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 10,
        },
    }[layout]
    build: Any = UNet2DConditionModel  # Any: diffusers types its tuples as of one element
    net = build(**common, **kwargs).eval().requires_grad_(False)
    words, seen = noise(2, 5, 12, seed=1), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    added = {"text_embeds": noise(2, 10, seed=2), "time_ids": noise(2, 6, seed=3)}

    def run() -> Tensor:
        x = noise(2, 4, 16, 16, seed=4)
        return net(x, 7, words, encoder_attention_mask=seen, added_cond_kwargs=added, return_dict=False)[0]

    return net, run


def autoencoder() -> tuple[nn.Module, Run]:
    torch.manual_seed(1)
    build: Any = AutoencoderKL
    net = build(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
    )
    net = net.eval().requires_grad_(False)
    x = noise(1, 3, 32, 24)
    return net, lambda: net.decode(net.encode(x, return_dict=False)[0].mode(), return_dict=False)[0]


def flux() -> tuple[nn.Module, Run]:
    torch.manual_seed(2)
    build: Any = FluxTransformer2DModel
    net = build(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(4, 4, 8),
    )
    net = net.eval().requires_grad_(False)

    def run() -> Tensor:
        ids = torch.stack(torch.meshgrid(torch.zeros(1), torch.arange(4.0), torch.arange(6.0), indexing="ij"), -1)
        return net(
            noise(1, 24, 4), noise(1, 5, 12, seed=1), noise(1, 10, seed=2), torch.tensor([0.5]),
            ids.view(-1, 3), torch.zeros(5, 3), return_dict=False,
        )[0]  # fmt: skip

    return net, run


MODELS: dict[str, Callable[[], tuple[nn.Module, Run]]] = {
    "SD 1.5": lambda: unet("1.5"),
    "SD 2.1": lambda: unet("2.1"),
    "SD XL": lambda: unet("XL"),
    "autoencoder": autoencoder,
    "Flux": flux,
}


def processors(model: nn.Module) -> dict[str, Any]:
    return {name: m.processor for name, m in model.named_modules() if getattr(m, "processor", None) is not None}


def same_objects(before: dict[str, Any], model: nn.Module) -> bool:
    after = processors(model)
    return before.keys() == after.keys() and all(before[name] is after[name] for name in before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of q that `attention` was asked about."""
    asked: list[tuple[int, ...]] = []
    real = ours.attention

    def counted(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        asked.append(tuple(q.shape))
        return real(q, *args, **kwargs)

    monkeypatch.setattr(ours, "attention", counted)
    yield asked


@pytest.mark.parametrize("name", list(MODELS))
def test_output_is_that_of_the_untouched_model(name: str, calls: list[tuple[int, ...]]) -> None:
    model, run = MODELS[name]()
    before, states = processors(model), [dict(vars(p)) for p in processors(model).values()]
    with torch.no_grad():
        plain = run()
        assert not calls
        installed = install(model)
        made = run()
        assert len(calls) >= len(installed.swapped) == len(before) > 0
        torch.testing.assert_close(made, plain, rtol=0, atol=TOLERANCE * float(plain.abs().max()))
        installed.restore()
        assert same_objects(before, model) and states == [dict(vars(p)) for p in processors(model).values()]
        calls.clear()
        assert torch.equal(run(), plain) and not calls
        installed.restore()  # again does nothing
    assert same_objects(before, model)


@pytest.mark.parametrize("name", list(MODELS))
def test_leaving_by_an_exception_restores(name: str) -> None:
    model, _ = MODELS[name]()
    before, known = processors(model), list(attention_dispatch._AttentionBackendRegistry._backends)
    with pytest.raises(RuntimeError, match="inside"), install(model):
        raise RuntimeError("inside")
    assert same_objects(before, model)
    assert list(attention_dispatch._AttentionBackendRegistry._backends) == known


def test_the_other_default_processor_keeps_scale_and_upcasting(calls: list[tuple[int, ...]]) -> None:
    model, run = unet("2.1")
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
            module.scale *= 1.3
    with torch.no_grad():
        plain = run()
        with install(model):
            torch.testing.assert_close(run(), plain, rtol=0, atol=TOLERANCE * float(plain.abs().max()))
    assert calls


def test_bfloat16(calls: list[tuple[int, ...]]) -> None:
    model, _ = autoencoder()
    model.bfloat16()
    z = noise(1, 4, 16, 12).bfloat16()
    with torch.no_grad():
        decode: Any = model
        plain = decode.decode(z, return_dict=False)[0]
        with install(model):
            made = decode.decode(z, return_dict=False)[0]
    assert calls and made.dtype == torch.bfloat16
    # one rounding of bfloat16 at the middle of the network, and what it grows to
    torch.testing.assert_close(made, plain, rtol=0, atol=0.05 * float(plain.abs().max()))


def test_gradients_reach_the_weights() -> None:
    model, run = unet("1.5")
    model.requires_grad_()
    found = []
    for install_it in (False, True):
        model.zero_grad()
        handle = install(model) if install_it else None
        run().square().mean().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        if handle is not None:
            handle.restore()
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        scale = max(1e-3, float(grad.abs().max()))
        torch.testing.assert_close(found[1][name], grad, rtol=0, atol=1e-4 * scale)


class LowRank(nn.Module):
    """A projection with a low-rank addition in its place, as LoRA libraries do it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def test_lora_in_the_projections_is_kept(calls: list[tuple[int, ...]]) -> None:
    model, run = unet("1.5")
    with torch.no_grad():
        bare = run()
    with install(model), torch.no_grad():
        found: list[Any] = [module for module in model.modules() if isinstance(module, Attention)]
        for module in found:
            module.to_q, module.to_v = LowRank(module.to_q), LowRank(module.to_v)
        made = run()
    with torch.no_grad():
        plain = run()
    assert calls and (plain - bare).abs().max() > 1e-3
    torch.testing.assert_close(made, plain, rtol=0, atol=TOLERANCE * float(plain.abs().max()))


def ip_adapter(net: Any) -> dict[str, dict[str, Tensor]]:
    """Weights of an IP-Adapter for `net`, in the format of its files."""
    weights, key = {}, 1
    for name in net.attn_processors:
        if name.endswith("attn2.processor"):
            width = net.get_submodule(name.removesuffix(".processor")).to_k.out_features
            weights[f"{key}.to_k_ip.weight"] = noise(width, 12, seed=key)
            weights[f"{key}.to_v_ip.weight"] = noise(width, 12, seed=key + 1)
            key += 2
    projection = {"proj.weight": noise(48, 10, seed=50), "proj.bias": noise(48, seed=51)}
    return {
        "image_proj": projection | {"norm.weight": torch.ones(12), "norm.bias": torch.zeros(12)},
        "ip_adapter": weights,
    }


@pytest.mark.parametrize("order", ["adapter first", "adapter while installed"])
def test_ip_adapter_is_kept(order: str, calls: list[tuple[int, ...]]) -> None:
    net, _ = unet("1.5")
    adapted: Any = net
    words, image = noise(2, 5, 12, seed=1), noise(2, 1, 10, seed=9)

    def run() -> Tensor:
        x = noise(2, 4, 16, 16, seed=4)
        return adapted(x, 7, words, added_cond_kwargs={"image_embeds": [image]}, return_dict=False)[0]

    original = processors(net)
    with torch.no_grad():
        handle = install(net) if order == "adapter while installed" else None
        adapted._load_ip_adapter_weights([ip_adapter(adapted)], low_cpu_mem_usage=False)
        handle = handle or install(net)
        found = processors(net)
        crossed = {name for name in found if isinstance(found[name], IPAdapterAttnProcessor2_0)}
        assert crossed == {name for name in found if name.endswith("attn2")}
        assert all(isinstance(found[name], Processor) for name in found.keys() - crossed)
        made = run()
        assert calls
        handle.restore()
        found = processors(net)
        assert all(isinstance(found[name], IPAdapterAttnProcessor2_0) for name in crossed)
        assert all(type(found[name]) is AttnProcessor2_0 for name in found.keys() - crossed)
        if handle.swapped and order == "adapter while installed":
            assert all(found[name] is original[name] for name in found.keys() - crossed)
        plain = run()
    torch.testing.assert_close(made, plain, rtol=0, atol=TOLERANCE * float(plain.abs().max()))


class Custom(AttnProcessor2_0):
    """Somebody's own processor: a subclass is no default."""


def test_only_default_processors_are_swapped() -> None:
    model, _ = unet("1.5")
    modules: list[Any] = [m for m in model.modules() if isinstance(m, Attention)]
    mine = Custom()
    modules[0].set_processor(mine)
    with install(model) as installed:
        assert modules[0].processor is mine and len(installed.swapped) == len(modules) - 1
        later = Custom()
        modules[1].set_processor(later)
        with install(model) as again:  # what is installed is left alone
            assert again.swapped == () and all(isinstance(m.processor, Processor) for m in modules[2:])
        assert all(isinstance(m.processor, Processor) for m in modules[2:])
    assert modules[0].processor is mine and modules[1].processor is later
    assert all(type(m.processor) is AttnProcessor2_0 for m in modules[2:])


def test_a_processor_is_made_without_arguments() -> None:
    assert isinstance(type(Processor())(), Processor)
    assert isinstance(ours.ModuleProcessor(), Processor)


def test_dispatched_models_keep_their_own_backend_and_the_global_one() -> None:
    model, run = flux()
    registry = attention_dispatch._AttentionBackendRegistry
    chosen = next(iter(processors(model).values()))
    native = attention_dispatch.AttentionBackendName("native")
    chosen._attention_backend = native
    active, members = registry._active_backend, list(attention_dispatch.AttentionBackendName)
    other, _ = flux()
    with install(model) as installed, install(other):
        assert len(installed.swapped) == len(processors(model)) - 1
        assert chosen._attention_backend is native
        assert registry._active_backend is active
        with torch.no_grad():
            run()
    assert chosen._attention_backend is native and ours.BACKEND not in registry._backends
    assert list(attention_dispatch.AttentionBackendName) == members


def test_dispatched_attention_groups_heads_and_masks_keys() -> None:
    q, k, v = noise(2, 7, 4, 8), noise(2, 9, 2, 8, seed=1), noise(2, 9, 2, 8, seed=2)
    seen = torch.rand(2, 9, generator=torch.Generator().manual_seed(3)) < 0.7
    made = ours._dispatched(q, k, v, seen, enable_gqa=True)
    native: Any = attention_dispatch._native_attention
    torch.testing.assert_close(made, native(q, k, v, seen, enable_gqa=True), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"without dropout, but got dropout_p=0\.1"):
        ours._dispatched(q, k, v, dropout_p=0.1)


def test_a_dispatcher_of_another_shape_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = flux()
    before = processors(model)
    monkeypatch.delattr(attention_dispatch._AttentionBackendRegistry, "_supported_arg_names")
    with pytest.raises(
        ValueError, match=f"as in diffusers 0.38 to 0.42, but got that of diffusers {diffusers.__version__}"
    ):
        install(model)
    monkeypatch.undo()
    assert same_objects(before, model) and ours._Backend.holders == 0
    assert ours.BACKEND not in attention_dispatch._AttentionBackendRegistry._backends
    install(model).restore()


def test_models_that_cannot_be_installed_are_errors() -> None:
    build: Any = SD3Transformer2DModel
    net = build(
        sample_size=8,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=8,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=8,
    )
    with pytest.raises(ValueError, match="but got SD3Transformer2DModel with these processors: JointAttnProcessor2_0"):
        install(net)
    with pytest.raises(ValueError, match="but got Linear with these processors: none"):
        install(nn.Linear(1, 1))
    pipeline: Any = object()
    with pytest.raises(TypeError, match=r"such as pipeline\.unet, but got object"):
        install(pipeline)
    model, _ = flux()
    next(iter(processors(model).values()))._parallel_config = object()
    with pytest.raises(ValueError, match="without context parallelism"):
        install(model)
