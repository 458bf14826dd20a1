"""ExactTiledVAE against the untiled model, and against the laws of a torus."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from asd.errors import OutputError, SizeError
from asd.exact_vae import ExactTiledVAE
from asd.seamless import Seamless, SeamlessAxes, SeamlessError
from asd.vae_canvas import Canvas, Moments
from asd.vae_host import Host
from asd.vae_layers import Conv, TilingError, decoder_layers, reads, sizes
from asd.vae_layers import Span as Cells
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import (  # noqa: E402 - the guard must come first
    AsymmetricAutoencoderKL,
    AutoencoderKL,
    AutoencoderTiny,
)

TOLERANCE = 1e-4
"""The bar; what is measured is float32 rounding, below 1e-5."""
AXES: tuple[SeamlessAxes, ...] = ("x", "y", "xy")


def kl(**options: Any) -> Any:
    torch.manual_seed(0)
    build: Any = AutoencoderKL  # Any: diffusers types its tuples as of one element
    settings: dict[str, Any] = {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    vae = build(**{**settings, **options}).eval()
    with torch.no_grad():
        # fresh GroupNorms are the identity after normalising: their weights would go untested
        for module in vae.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return vae


def tiny(**options: Any) -> Any:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "encoder_block_out_channels": (8,) * 4,
        "decoder_block_out_channels": (8,) * 4,
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 1, 1, 1),
    }
    return AutoencoderTiny(**{**settings, **options}).eval()


def small_kl(**options: Any) -> Any:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return kl(**{"block_out_channels": (8, 16), **blocks, **options})


MODELS: dict[str, Any] = {
    "kl": kl,
    "kl f2": small_kl,
    "kl without attention or quant convs": lambda: small_kl(
        mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False, latent_channels=8
    ),
    "kl with attention in its blocks": lambda: small_kl(
        down_block_types=("AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
    ),
    "kl of two layers": lambda: small_kl(layers_per_block=2),
    "tiny": tiny,
    "tiny silu f4": lambda: tiny(
        act_fn="silu",
        encoder_block_out_channels=(8,) * 3,
        decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1, 2, 0),
        num_decoder_blocks=(0, 2, 1),
        latent_channels=5,
    ),
}
FACTORS = {"kl": 8, "tiny": 8, "tiny silu f4": 4}


def latents(vae: Any, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, vae.config["latent_channels"], height, width, generator=torch.Generator().manual_seed(2))


def images(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1


def code(output: Any) -> Tensor:
    return output.latents if hasattr(output, "latents") else output.latent_dist.parameters


def close(made: Tensor, reference: Tensor) -> None:
    assert reference.abs().amax() > 0.05
    torch.testing.assert_close(made, reference, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", list(MODELS))
@torch.no_grad()
def test_decode_equals_the_whole_image(name: str) -> None:
    vae = MODELS[name]()
    z = latents(vae, 35, 33)  # 5x5 uneven tiles
    whole, tiled = vae.decode(z), ExactTiledVAE(vae, tile=8).decode(z)
    assert type(tiled) is type(whole)
    close(tiled.sample, whole.sample)


@pytest.mark.parametrize("name", list(MODELS))
@torch.no_grad()
def test_encode_equals_the_whole_image(name: str) -> None:
    vae = MODELS[name]()
    factor = FACTORS.get(name, 2)
    x = images(32 * factor + factor // 2, 33 * factor)
    whole, tiled = vae.encode(x), ExactTiledVAE(vae, tile=8).encode(x)
    assert type(tiled) is type(whole)
    close(code(tiled), code(whole))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", ["kl f2", "tiny silu f4"])
@torch.no_grad()
def test_on_a_torus_it_equals_the_seamless_model(name: str, axes: SeamlessAxes) -> None:
    vae = MODELS[name]()
    factor = FACTORS.get(name, 2)
    tiled = ExactTiledVAE(vae, tile=8, seamless=axes)
    z, x = latents(vae, 24, 32), images(24 * factor, 32 * factor)
    with Seamless(vae, axes):
        decoded, encoded = vae.decode(z).sample, code(vae.encode(x))
        close(tiled.decode(z).sample, decoded)  # a Seamless of its own around it changes nothing
    close(tiled.decode(z).sample, decoded)
    close(code(tiled.encode(x)), encoded)
    assert (vae.decode(z).sample - decoded).abs().amax() > 1e-3


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", ["kl", "tiny"])
@torch.no_grad()
def test_decode_commutes_with_any_roll_of_latents(name: str, axes: SeamlessAxes) -> None:
    vae = MODELS[name]()
    tiled = ExactTiledVAE(vae, tile=8, seamless=axes)
    z = latents(vae, 19, 26)
    step = (5 * ("y" in axes), 11 * ("x" in axes))
    made = tiled.decode(z).sample.roll((8 * step[0], 8 * step[1]), (-2, -1))
    close(tiled.decode(z.roll(step, (-2, -1))).sample, made)


@torch.no_grad()
def test_halo_wider_than_the_canvas_wraps_as_often_as_needed() -> None:
    vae = tiny(num_decoder_blocks=(3, 3, 3, 1))
    z = latents(vae, 3, 5)
    with Seamless(vae, "xy"):
        whole = vae.decode(z).sample
    close(ExactTiledVAE(vae, tile=8, seamless="xy").decode(z).sample, whole)


HOLDS = {"nothing": 0, "some": 8 * 64 * 64 * 4, "all": 10**9}


@pytest.mark.parametrize("seamless", ["none", "xy"])
@pytest.mark.parametrize("hold", list(HOLDS))
@pytest.mark.parametrize("name", ["kl f2", "kl of two layers", "kl with attention in its blocks", "tiny"])
@torch.no_grad()
def test_computing_again_equals_waiting(name: str, hold: str, seamless: SeamlessAxes) -> None:
    vae = MODELS[name]()
    factor = FACTORS.get(name, 2)
    z, x = latents(vae, 35, 24, batch=2), images(35 * factor, 24 * factor)
    tiled = ExactTiledVAE(vae, tile=8, seamless=seamless, hold=HOLDS[hold])
    with Seamless(vae, seamless):
        decoded, encoded = vae.decode(z).sample, code(vae.encode(x))
    close(tiled.decode(z).sample, decoded)
    close(code(tiled.encode(x)), encoded)


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The way of CUDA on the CPU: channels last, moments by channel, canvases in small chunks; returns their shapes."""
    monkeypatch.setattr("asd.vae_run.accelerated", lambda device: True)
    monkeypatch.setattr("asd.vae_run.LEAST_ROWS", 1)
    monkeypatch.setattr("asd.vae_host.CHUNK", 2**14)
    made: list[tuple[int, int, int]] = []
    canvas = Host.canvas

    def seen(self: Host, shape: tuple[int, int, int], dtype: torch.dtype) -> Any:
        found = canvas(self, shape, dtype)
        if found is not None:
            made.append(shape)
        return found

    monkeypatch.setattr(Host, "canvas", seen)
    return made


@pytest.mark.parametrize("seamless", ["none", "x", "xy"])
@pytest.mark.parametrize("hold", [None, *HOLDS])
@pytest.mark.parametrize("name", ["kl f2", "kl of two layers", "kl with attention in its blocks", "tiny"])
@torch.no_grad()
def test_the_way_of_an_accelerator_equals_waiting(
    name: str, hold: str | None, seamless: SeamlessAxes, hosted: list[tuple[int, int, int]]
) -> None:
    vae = MODELS[name]()
    factor = FACTORS.get(name, 2)
    z, x = latents(vae, 35, 24, batch=2), images(35 * factor, 24 * factor)
    tiled = ExactTiledVAE(vae, tile=8, seamless=seamless, hold=None if hold is None else HOLDS[hold])
    with Seamless(vae, seamless):
        decoded, encoded = vae.decode(z).sample, code(vae.encode(x))
    made = tiled.decode(z).sample
    close(made, decoded)
    assert made.is_contiguous()
    close(code(tiled.encode(x)), encoded)
    assert bool(hosted) == (hold == "nothing" and name != "tiny")


@pytest.mark.parametrize("free", [0, 2**20])
@torch.no_grad()
def test_without_room_on_the_host_it_computes_again(
    free: int, hosted: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asd.vae_host.available_memory", lambda: free)
    monkeypatch.setattr("asd.vae_host._most_pinned", 0)
    vae = MODELS["kl of two layers"]()
    z = latents(vae, 64, 64)
    close(ExactTiledVAE(vae, tile=16, hold=0).decode(z).sample, vae.decode(z).sample)
    size = 4 * max((c * h * w for c, h, w in hosted), default=0)
    assert size == 0 if free == 0 else 0 < 2 * size <= free


@torch.no_grad()
def test_memory_that_cannot_be_pinned_is_done_without(
    hosted: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = torch.empty

    def refused(*shape: Any, **options: Any) -> Tensor:
        if options.get("dtype") == torch.uint8:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", refused)
    vae = MODELS["kl of two layers"]()
    z = latents(vae, 24, 24)
    close(ExactTiledVAE(vae, tile=8, hold=0).decode(z).sample, vae.decode(z).sample)
    assert not hosted


@pytest.mark.parametrize("way", ["plain", "hosted"])
@torch.no_grad()
def test_a_sink_gets_every_tile_with_hold(way: str, request: pytest.FixtureRequest) -> None:
    if way == "hosted":
        request.getfixturevalue("hosted")
    vae = small_kl()
    z = latents(vae, 32, 24)
    sink = Canvas(torch.full((3, 64, 48), torch.nan))
    ExactTiledVAE(vae, tile=8, hold=0).decode_canvas(z, sink)
    close(sink.data[None], vae.decode(z).sample)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_moments_by_channel_are_those_of_groups(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    spread = torch.linspace(0.1, 4, 12, dtype=torch.float64).view(1, -1, 1, 1)
    x = (torch.randn(1, 12, 37, 29, generator=generator, dtype=torch.float64) * spread + 30 * spread).to(dtype)
    moments = Moments(3, by_channel=True)
    for rows in x.to(memory_format=torch.channels_last).split([16, 16, 5], 2):
        for part in rows.split([20, 9], 3):
            moments.add(part)
    variance, mean = torch.var_mean(x.double().reshape(3, -1), 1, correction=0)
    for made, wanted in zip(moments.result(), (mean, variance), strict=True):
        torch.testing.assert_close(made, wanted, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=0)


@torch.no_grad()
def test_what_is_held_is_no_larger_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = kl(layers_per_block=2)
    made: list[int] = []
    empty = Canvas.empty.__func__  # pyright: ignore[reportFunctionMemberAccess] - a classmethod's function

    def seen(cls: type[Canvas], shape: tuple[int, int, int], *rest: Any) -> Canvas:
        made.append(4 * shape[0] * shape[1] * shape[2])
        return empty(cls, shape, *rest)

    monkeypatch.setattr(Canvas, "empty", classmethod(seen))
    hold = 4 * 16 * 64 * 64  # the canvas at twice the latents' size, of 16 channels
    z = latents(vae, 32, 32)
    ExactTiledVAE(vae, tile=16, hold=hold).decode(z)
    image = 4 * 3 * 256 * 256
    assert max(made[:-1]) == hold and made[-1] == image
    made.clear()
    ExactTiledVAE(vae, tile=16, hold=0).decode(z)
    # the latent grid for attention, and the result
    assert made == [4 * 16 * 32 * 32, image]


@torch.no_grad()
def test_batches_tuples_and_double_precision() -> None:
    vae = small_kl().double()
    z, x = latents(vae, 17, 16, batch=3).double(), images(34, 32, batch=2).double()
    tiled = ExactTiledVAE(vae, tile=8)
    torch.testing.assert_close(tiled.decode(z, return_dict=False)[0], vae.decode(z).sample, rtol=0, atol=1e-12)
    posterior = tiled.encode(x, return_dict=False)[0]
    torch.testing.assert_close(posterior.mode(), vae.encode(x).latent_dist.mode(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_keeps_its_type(dtype: torch.dtype) -> None:
    vae = small_kl()
    z = latents(vae, 17, 16)
    reference = vae.decode(z).sample
    vae = vae.to(dtype)
    whole, made = vae.decode(z.to(dtype)).sample, ExactTiledVAE(vae, tile=8).decode(z.to(dtype)).sample
    assert made.dtype == dtype
    # no further from the float32 result than the whole image in the same precision
    error = (made.float() - reference).abs().mean() / (whole.float() - reference).abs().mean()
    assert error < 1.2


@torch.no_grad()
def test_norms_survive_a_large_offset() -> None:
    # mean far above the spread: sums of squares in float32 would lose the variance
    vae = small_kl()
    vae.decoder.conv_in.bias += 1000
    z = latents(vae, 32, 32)
    close(ExactTiledVAE(vae, tile=8).decode(z).sample, vae.decode(z).sample)


def test_files_are_used_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = small_kl()
    z = latents(vae, 32, 32)
    tiled = ExactTiledVAE(vae, tile=8, spill=tmp_path)
    seen: list[int] = []
    forward = vae.decoder.conv_out.forward

    def watched(x: Tensor) -> Tensor:
        seen.append(sum(path.stat().st_size for path in tmp_path.rglob("*.canvas")))
        return forward(x)

    monkeypatch.setattr(vae.decoder.conv_out, "forward", watched)
    made = tiled.decode(z).sample
    # one canvas of 8 channels at 64x64 in float32: those before it are gone already
    assert seen == [8 * 64 * 64 * 4] * 16
    assert not any(tmp_path.iterdir())
    close(made, vae.decode(z).sample.detach())

    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("inside")

    monkeypatch.setattr(vae.decoder.conv_out, "forward", fails)
    with pytest.raises(RuntimeError, match="inside"):
        tiled.decode(z)
    assert not any(tmp_path.iterdir())
    assert not any("_conv_forward" in module.__dict__ for module in vae.modules())


def test_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    vae = small_kl()
    with pytest.raises(OutputError, match=r"room for 65536 bytes .*No space left"):
        ExactTiledVAE(vae, spill=tmp_path).decode(latents(vae, 32, 32))
    assert not any(tmp_path.iterdir())


class Peak(TorchDispatchMode):
    """The largest tensor, and the most bytes alive at once, of all that is computed; canvases wait on the host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.largest = 0
        self.peak = 0
        self._alive: dict[int, int] = {}
        self._hosted = False
        empty = Canvas.empty.__func__  # pyright: ignore[reportFunctionMemberAccess] - a classmethod's function

        def hosted(*args: Any) -> Canvas:
            self._hosted = True
            try:
                return empty(*args)
            finally:
                self._hosted = False

        monkeypatch.setattr(Canvas, "empty", classmethod(hosted))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {arg.untyped_storage()._cdata for arg in args if isinstance(arg, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if self._hosted or not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in known:  # views and results of in-place operations are no new memory
                self._alive[key] = size
                weakref.finalize(storage, self._alive.pop, key, None)
                self.largest = max(self.largest, size)
                self.peak = max(self.peak, sum(self._alive.values()))
        return made


def measured(vae: Any, side: int, *, tile: int | None, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Peak:
    z = latents(vae, side, side)
    with torch.no_grad(), monkeypatch.context() as patches, Peak(patches) as peak:
        (ExactTiledVAE(vae, tile=tile, **options) if tile else vae).decode(z)
    return peak


def test_memory_is_set_by_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny(encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4)
    whole = measured(vae, 72, tile=None, monkeypatch=monkeypatch)
    assert whole.largest == 16 * 4 * (8 * 72) ** 2
    # from three tiles a side on there is one in the middle, with neighbours all around
    made = {side: measured(vae, side, tile=8, monkeypatch=monkeypatch) for side in (24, 48, 72)}
    # no layer makes more than the last upsampling: 4 convolutions follow it, and it comes in twos
    assert made[24].largest <= 16 * 4 * (8 * 8 + 2 * 8) ** 2
    assert made[24].largest == made[48].largest == made[72].largest
    assert made[24].peak == made[48].peak == made[72].peak < whole.peak / 25


def test_kl_holds_a_tile_and_at_attention_the_latent_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = kl()
    made = {side: measured(vae, side, tile=8, monkeypatch=monkeypatch) for side in (24, 32)}
    # 16 channels at the image's size, with two pixels around the tile
    assert made[24].largest <= 16 * 4 * (8 * 8 + 4) ** 2
    assert made[24].largest == made[32].largest
    assert made[32].peak < measured(vae, 32, tile=None, monkeypatch=monkeypatch).peak / 4
    # computing again sees all layers' surroundings at once, still of one tile
    small = small_kl(mid_block_add_attention=False)
    again = {side: measured(small, side, tile=16, monkeypatch=monkeypatch, hold=0) for side in (48, 64)}
    assert again[48].largest == again[64].largest
    # up to the numbers gathered from each tile
    assert again[64].peak == pytest.approx(again[48].peak, rel=0.01)
    assert again[64].peak < measured(small, 64, tile=None, monkeypatch=monkeypatch).peak / 2


def test_receptive_field_is_read_from_the_modules() -> None:
    """Against gradients: the latents that one pixel in the middle depends on."""
    vae = tiny(num_decoder_blocks=(2, 1, 0, 1), act_fn="silu").double()
    z = latents(vae, 41, 41).double().requires_grad_()
    vae.decode(z).sample[0, :, 164, 164].sum().backward()
    assert z.grad is not None
    touched = z.grad[0].abs().sum(0).nonzero()
    layers: Any = decoder_layers(vae)
    extents = sizes(layers, 41, 0)
    span = reads(layers, Cells(164, 165), 0, extents, wrap=False)[0]
    assert (int(touched.min()), int(touched.max()) + 1) == span


def test_downsampling_pads_one_side() -> None:
    convolution = Conv(nn.Identity(), (3, 3), (2, 2), (1, 1), (0, 0), (1, 1))
    assert [convolution.size(n, 0) for n in (8, 9)] == [4, 4]
    assert convolution.reads(Cells(3, 4), 0) == (6, 9)


def test_offloaded_models_work() -> None:
    from accelerate import cpu_offload

    vae = small_kl()
    z = latents(vae, 16, 17)
    with torch.no_grad():
        whole = vae.decode(z).sample
        # weights are on the meta device but for the moment a module runs
        cpu_offload(vae, execution_device=torch.device("cpu"))
        assert next(vae.parameters()).is_meta
        close(ExactTiledVAE(vae, tile=8).decode(z).sample, whole)


def test_other_attributes_are_the_models() -> None:
    vae = small_kl()
    tiled = ExactTiledVAE(vae)
    assert tiled.config is vae.config and tiled.dtype == vae.dtype and tiled.vae is vae
    with pytest.raises(AttributeError):
        _ = tiled.no_such_name


@pytest.mark.parametrize("tile", [0, 7, -8, 8.0, True, "8"])
def test_tiles_too_small_or_not_whole_are_errors(tile: Any) -> None:
    with pytest.raises(TilingError, match="at least 8 latent cells"):
        ExactTiledVAE(small_kl(), tile=tile)


@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 3, 8, 8), (1, 4, 0, 8), (1, 4, 1, 8, 8), (0, 4, 8, 8)])
def test_latents_of_another_shape_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(SizeError, match=r"latents of shape \(N, 4, H, W\)"):
        ExactTiledVAE(small_kl()).decode(torch.zeros(shape))


def test_images_that_cannot_be_encoded_are_errors() -> None:
    vae = tiny()
    with pytest.raises(SizeError, match=r"images of shape \(N, 3, H, W\)"):
        ExactTiledVAE(vae).encode(torch.zeros(1, 4, 64, 64))
    with pytest.raises(SizeError, match="width is a multiple of 8 pixels, but got 60"):
        ExactTiledVAE(vae, seamless="x").encode(torch.zeros(1, 3, 60, 60))
    with pytest.raises(SizeError, match="height is at least 8 pixels, but got 4"):
        ExactTiledVAE(vae).encode(torch.zeros(1, 3, 4, 60))


def test_unsupported_models_are_errors(tmp_path: Path) -> None:
    def build(model: Any) -> Any:
        return lambda: ExactTiledVAE(model)

    convolution = nn.Conv2d(3, 3, 3)
    unsupported: dict[str, Any] = {
        "AutoencoderKL or an AutoencoderTiny, but got Conv2d": build(convolution),
        "but got AsymmetricAutoencoderKL": build(AsymmetricAutoencoderKL(norm_num_groups=8)),
        "nearest upsampling by a whole number, but got 'bilinear'": build(tiny(upsample_fn="bilinear")),
    }
    for message, call in unsupported.items():
        with pytest.raises(TilingError, match=message):
            call()
    reflecting = small_kl()
    reflecting.decoder.conv_in.padding_mode = "reflect"
    with pytest.raises(TilingError, match="number of zeros around"):
        ExactTiledVAE(reflecting)
    with pytest.raises(SeamlessError, match="one of none, x, y, xy"):
        ExactTiledVAE(small_kl(), seamless="both")  # pyright: ignore[reportArgumentType] - the error is the point
    with pytest.raises(OutputError, match="spill to be a folder"):
        ExactTiledVAE(small_kl(), spill=tmp_path / "none")
    wrong: list[dict[str, Any]] = [{"hold": -1}, {"hold": 0, "spill": tmp_path}]
    for options in wrong:
        with pytest.raises(TilingError, match="hold as a number of bytes"):
            ExactTiledVAE(small_kl(), **options)
    vae = small_kl()
    with Seamless(vae, "x"), pytest.raises(TilingError, match=r"seamless=\.\.\."):
        ExactTiledVAE(vae).decode(latents(vae, 8, 8))
