"""Text to a tileable material: sentence encoder, U-Net on a torus, autoencoder on a torus, consistent maps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack, overload

import torch
from torch import Tensor

from asd.errors import CheckpointError, ZelligeError
from asd.loading import layout
from asd.resample import resample
from asd.seamless import Seamless, SeamlessAxes, parse_axes
from asd.sizes import torus_size
from asd.tile_guide import TileGuide
from materials.conditioning import SCALE_RANGE, condition_vector
from materials.consistent import checked_locks, consistent
from materials.defaults import FEW_STEPS, GUIDANCE, STEPS
from materials.density import base_size
from materials.detail import Detailer, add_detail
from materials.few_steps import load_student, sample_few
from materials.grain import STRENGTH as GRAIN
from materials.material import Material
from materials.prompt import PromptEmbedding, encode_prompts
from materials.quiet import quiet_loading
from materials.variation import (
    Variation,
    begin,
    free_cells,
    kept_material,
    known_latents,
    noised,
    pasted,
    start_noise,
    variation_of,
)
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import AutoencoderTiny, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel  # noqa: E402 - the guard must come first
from transformers import BertModel, PreTrainedTokenizerBase  # noqa: E402 - as above

DEFAULT_WEIGHTS = Path(__file__).with_name("weights")
GUIDED = (0.7, 1.0)
"""Noise levels between which classifier-free guidance acts (Kynkäänniemi et al. 2024); outside it costs variety."""
BASE_TEXELS = 256
"""Texels along the short side of a pattern at texel scale 0."""
BASE_METRES = 2.0
"""Physical size assumed for those texels; the training images carry none."""
FACTOR = 8
"""Pixels along a latent cell."""
LEAST_SIDE = 96
"""Pixels along the short side of a canvas, or the next multiple of what a roll commutes with."""
STABLE_MATERIALS = ("['pipeline', 'StableMaterialsPipeline']", "StableMaterialsPipeline")
"""What a checkpoint of `materials.stable_materials` calls its layout; the first names the code that it carries."""
DOMAIN = 1.0
"""Which source the prompt is drawn from: 1 photographs, -1 procedural materials, 0 either."""
StepTold = Callable[[int, int], None]
"""Called as (step, steps) after every step."""


class Options(TypedDict, total=False):
    """What a call takes besides prompts and seeds; see `MaterialPipeline.__call__`."""

    size: tuple[int, int]
    seamless: SeamlessAxes
    steps: int | None
    guidance: float | None
    scale: float | None
    lock: Mapping[str, float | Tensor] | None
    grain: float | None
    image: Material | Tensor | None
    strength: float | None
    mask: Tensor | None
    neighbour: int | None
    amount: float | None
    guide: SeamlessAxes | None
    refine: int | None
    callback: Callable[[int, int], None] | None


class MaterialPipeline(DiffusionPipeline):
    """Materials from text, any pixel size, seamless per axis; a diffusers pipeline over a standard diffusers folder.

    `MaterialPipeline.from_pretrained()` loads the shipped weights; a folder or a hub id in the same layout
    (`vae/ unet/ text_encoder/ tokenizer/ scheduler/ model_index.json`, safetensors) loads too, and so does one in
    that of gvecchio/StableMaterials (`materials.stable_materials`).
    """

    vae: AutoencoderTiny
    unet: UNet2DConditionModel
    text_encoder: BertModel
    tokenizer: PreTrainedTokenizerBase
    scheduler: SchedulerMixin
    trained_side = BASE_TEXELS
    """Pixels along a side: a smaller material is made with as many as a square of it, and resampled."""
    detailer: Detailer | None = None
    """What draws the fine detail that decoding fades; a checkpoint may have none."""
    student: UNet2DConditionModel | None = None
    """The U-Net that takes four steps (`materials.few_steps`); a checkpoint may have none."""
    infers_maps = True
    """Whether the autoencoder guesses maps that it is not given."""

    def __init__(
        self,
        vae: AutoencoderTiny,
        unet: UNet2DConditionModel,
        text_encoder: BertModel,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] - narrower on purpose: no remote code, no pickles
        cls,
        path_or_id: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load a checkpoint: safetensors only, no remote code.

        Args:
            path_or_id: a folder or a hub id; None for the weights inside the package.
            device: "auto" (CUDA, then MPS, then CPU) or a torch device.
            dtype: float32 by default on the CPU, float16 on a GPU.
            revision: commit of a hub id.

        Raises:
            CheckpointError: nothing there, damaged, or another kind of model.
        """
        source = DEFAULT_WEIGHTS if path_or_id is None else path_or_id
        folder = Path(source)
        if not (folder / "model_index.json").is_file() and (
            folder.exists() or "/" not in str(source) or folder.is_absolute()
        ):
            raise CheckpointError(
                f"Expected a diffusers folder with model_index.json or a hub id, but got {str(source)!r}."
            )
        chosen = _device(device)
        dtype = dtype or (torch.float32 if chosen == "cpu" else torch.float16)
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": folder.is_dir()}
        if revision is not None:
            options["revision"] = revision
        try:
            if layout(source, options) in STABLE_MATERIALS:
                from materials.stable_checkpoint import load_stable_materials

                loaded: Any = load_stable_materials(source, chosen, dtype, revision)
                return loaded
            # What a hub id downloads is worth a bar; a folder loads in a second.
            with quiet_loading() if folder.is_dir() else nullcontext():
                # Loaded here, without the pooling layer that the checkpoint doesn't have.
                load: Any = BertModel.from_pretrained  # typed without the second value of output_loading_info
                text_encoder, report = load(
                    str(source), subfolder="text_encoder", add_pooling_layer=False, output_loading_info=True, **options
                )
                pipeline = super().from_pretrained(str(source), text_encoder=text_encoder, **options)
                if (folder / "detail").is_dir():
                    pipeline.detailer = Detailer.from_pretrained(str(source), subfolder="detail", **options)
                if (folder / "few").is_dir():
                    pipeline.student = load_student(folder / "few", pipeline.unet)
        except CheckpointError:
            raise
        # diffusers, transformers, safetensors and the hub raise all kinds for a damaged folder.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"Expected a material checkpoint in {str(source)!r}, but it does not load: {reason}"
            ) from error
        if (fault := _fault(pipeline, report)) is not None:
            raise CheckpointError(f"Expected a material checkpoint in {str(source)!r}, but {fault}.")
        pipeline.set_progress_bar_config(disable=True)
        for module in (
            pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.detailer, pipeline.student
        ):  # fmt: skip
            if module is None:
                continue
            # Not diffusers' own `to`, which warns of every cast.
            torch.nn.Module.to(module, device=chosen, dtype=dtype).requires_grad_(False).eval()
        return pipeline

    @overload
    def __call__(self, prompt: str, *, seed: int = 0, **options: Unpack[Options]) -> Material: ...
    @overload
    def __call__(self, prompt: Sequence[str], *, seed: Sequence[int], **options: Unpack[Options]) -> list[Material]: ...

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        size: tuple[int, int] = (512, 512),
        seamless: SeamlessAxes = "xy",
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        scale: float | None = None,
        lock: Mapping[str, float | Tensor] | None = None,
        grain: float | None = None,
        image: Material | Tensor | None = None,
        strength: float | None = None,
        mask: Tensor | None = None,
        neighbour: int | None = None,
        amount: float | None = None,
        guide: SeamlessAxes | None = None,
        refine: int | None = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> Material | list[Material]:
        """Make one material, or one for each prompt of a list.

        Args:
            prompt: what the material is; a list makes a batch, then `seed` lists as many seeds.
            size: (width, height) in pixels, exact in every map.
            seamless: axes along which all maps tile.
            seed: noise of a sample; a sample doesn't depend on its batch (on a GPU up to rounding).
            steps: denoising steps, 4 by default: those of the distilled U-Net (`materials.few_steps`). Another number,
                a guidance, an image, a guide or a loaded LoRA is the many-step U-Net's, with 7 by default; so is all
                where a checkpoint has no other.
            guidance: strength of classifier-free guidance (Ho & Salimans 2022), 4 by default, which the distilled one
                has inside; 1 turns it off and halves the time of the many-step one.
            scale: size of the pattern: log2(texels along a pattern's short side / 256), from 0 to 1; by default what
                fits `size`. Canvases larger than that show more of the material, not larger features.
            lock: maps to keep: a number in [0, 1], or a tensor (C, H, W) in the map's range.
            grain: strength of the fine detail added to basecolor (`materials.grain`), 1 by default; 0 leaves it out.
            image: a material, or a basecolor (3, H, W) in [0, 1], to make a variation of (`materials.variation`).
            strength: how much of it is made anew, from 0 to 1; 0.6 by default, and 1 with a mask.
            mask: (1, H, W), above 0.5 where the material is made anew; all else keeps its values exactly.
            neighbour: a seed; the noise is `amount` of the way from the seed's to its.
            amount: from 0 to 1.
            guide: axes out of those that `seamless` leaves, along which samples are steered to tile by
                `asd.tile_guide.TileGuide`, with nothing wrapped in the networks. It takes ten times as long, and mostly
                succeeds; the maps' own maths then treats these axes as a torus too.
            refine: 2, 4 or 8: the material is made with so many times fewer texels along a side, and then refined to
                `size` (`materials.refine`): finer detail of the same layout in place of more of the material.
            callback: called as (step, steps) after every step.

        Raises:
            SizeError, SeamlessError, ZelligeError: an argument is out of range; the message says which.
        """
        single = isinstance(prompt, str)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = [seed] if isinstance(seed, int) else list(seed)
        if not prompts or len(seeds) != len(prompts):
            raise ZelligeError(
                f"Expected one seed for each prompt, but got {len(prompts)} prompts and {len(seeds)} seeds."
            )
        if not all(-(2**63) <= s < 2**64 for s in seeds):
            raise ZelligeError(f"Expected seeds of at most 64 bits, but got {seed}.")
        if not all(p.strip() for p in prompts):
            raise ZelligeError("Expected a prompt, but got an empty one.")
        few = self.takes_few_steps(steps, guidance, image, guide)
        asked: Options = {"steps": steps, "guidance": guidance}
        steps, guidance, grain = self.settled(FEW_STEPS if few else steps, guidance, grain)
        if steps < 1:
            raise ZelligeError(f"Expected steps of at least 1, but got {steps}.")
        if not math.isfinite(guidance):
            raise ZelligeError(f"Expected guidance as a finite number, but got {guidance}.")
        parse_axes(seamless)
        guided = _guided(guide or "none", seamless, mask)
        if refine not in (None, 1):
            options: Options = {
                "seamless": seamless, "scale": scale, "lock": lock, "image": image, "strength": strength, "mask": mask,
                "neighbour": neighbour, "amount": amount, "guide": guide, **asked,
            }  # fmt: skip
            made = self._refined(prompts, seeds, size, refine, steps, grain, callback, options)
            return made[0] if single else made
        tiled = _union(seamless, guided)
        multiple = FACTOR * self.stride
        least_side = multiple * math.ceil(LEAST_SIDE / multiple)
        canvas = torus_size(size, multiple=multiple, least_area=self.trained_side**2, least_side=least_side)
        locks = checked_locks(lock or {}, size)
        variation = self.variation(image, strength, mask, neighbour, amount, size, seamless)
        scale = self.pattern_scale(scale, canvas)
        with Seamless([self.student if few and self.student is not None else self.unet, self.vae], seamless):
            if few:
                z = sample_few(self, prompts, seeds, canvas, seamless, scale, callback, variation)
            else:
                z = self.denoise(prompts, seeds, canvas, seamless, steps, guidance, scale, callback, variation, guided)
            maps = torch.cat([self.decode(latent[None], seamless) for latent in z])
        wrap_x, wrap_y = parse_axes(tiled)
        for m, s in zip(maps, seeds, strict=True):
            # before it is scaled: the decoder's losses are counted in the canvas's texels
            colour = m[:3] * 0.5 + 0.5
            m[:3] = add_detail(colour, s, self.detailer, wrap_x=wrap_x, wrap_y=wrap_y, strength=grain) * 2 - 1
        maps = resample(maps, (size[1], size[0]), wrap_x=wrap_x, wrap_y=wrap_y).clamp(-1, 1)
        texel_m = BASE_METRES / (BASE_TEXELS * 2**scale) * min(canvas) / min(size)
        size_m = (size[0] * texel_m, size[1] * texel_m)
        if isinstance(image, Material):
            size_m = image.size_m
        made = [
            consistent(m, size_m, tiled, locks, cut="none" if variation.placed else seamless) for m in maps
        ]
        if variation.mask is not None:
            base = kept_material(variation, tiled, self)
            made = [pasted(each, base, variation.mask) for each in made]
        return made[0] if single else made

    def _refined(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int, int],
        factor: int,
        steps: int,
        grain: float,
        callback: StepTold | None,
        options: Options,
    ) -> list[Material]:
        """`__call__` with `refine`: a base of each, without the grain, and its refinement."""
        from materials.refine import base_locks, check_factor, refine, refine_steps

        check_factor(self, factor)
        if options.get("mask") is not None:
            raise ZelligeError(f"Expected no refine beside a mask, which keeps texels as they are, but got {factor}.")
        locks = checked_locks(options.get("lock") or {}, size)
        small, seamless = base_size(size, factor), options.get("seamless", "xy")
        options |= {"lock": base_locks(locks, small, seamless), "size": small, "grain": 0.0}
        total = steps + refine_steps(self.scheduler, factor)

        def make(i: int, tell: StepTold | None) -> Material:
            def told(k: int, begun: int = 0) -> None:
                if tell is not None:
                    tell(begun + k, total)

            own: Options = {**options, "callback": lambda k, _: told(k)}
            base = self(prompts[i], seed=seeds[i], **own)
            return refine(
                self, base, prompts[i], factor=factor, size=size, seed=seeds[i], scale=options.get("scale"),
                grain=grain, lock=locks, callback=lambda k, _: told(k, steps),
            )  # fmt: skip

        return [make(i, _told(i, len(prompts), callback)) for i in range(len(prompts))]

    def takes_few_steps(
        self, steps: int | None, guidance: float | None, image: object, guide: SeamlessAxes | None
    ) -> bool:
        """Whether the student draws: there is one, and nothing asks for the other, whose LoRA alone there can be."""
        plain = steps in (None, FEW_STEPS) and guidance is None and image is None and guide in (None, "none")
        return self.student is not None and plain and not getattr(self.unet, "peft_config", None)

    def settled(self, steps: int | None, guidance: float | None, grain: float | None) -> tuple[int, float, float]:
        """The three, each the model's own default where it is None."""
        return (
            STEPS if steps is None else steps,
            GUIDANCE if guidance is None else guidance,
            GRAIN if grain is None else grain,
        )

    def pattern_scale(self, scale: float | None, canvas: tuple[int, int]) -> float:
        """`scale` of a call, or what fits the canvas. Raises ZelligeError where it is out of range."""
        if scale is None:
            scale = math.log2(min(canvas) / BASE_TEXELS)
        elif not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
            raise ZelligeError(f"Expected scale from {SCALE_RANGE[0]:g} to {SCALE_RANGE[1]:g}, but got {scale:g}.")
        return min(SCALE_RANGE[1], max(SCALE_RANGE[0], scale))

    def variation(
        self,
        image: Material | Tensor | None,
        strength: float | None,
        mask: Tensor | None,
        neighbour: int | None,
        amount: float | None,
        size: tuple[int, int],
        seamless: SeamlessAxes,
    ) -> Variation:
        """What a call starts from; raises as `variation_of`, and where the model cannot."""
        return variation_of(image, strength, mask, neighbour, amount, size, seamless)

    @property
    def stride(self) -> int:
        """Latent cells by which a roll commutes with the U-Net: what its downsampling divides the latent size by."""
        return 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    @torch.no_grad()
    def denoise(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        canvas: tuple[int, int],
        seamless: SeamlessAxes,
        steps: int,
        guidance: float,
        scale: float,
        callback: Callable[[int, int], None] | None = None,
        variation: Variation = Variation(),  # noqa: B008 - frozen
        guide: SeamlessAxes = "none",
    ) -> Tensor:
        """Latents (N, C, canvas height / 8, canvas width / 8) on the pipeline's device; call it inside `Seamless`."""
        device, dtype, n = self.unet.device, self.unet.dtype, len(prompts)
        if n > 1 and device.type == "cpu":
            fixed_for_all = (canvas, seamless, steps, guidance, scale)
            return one_by_one(
                n, callback,
                lambda i, tell: self.denoise([prompts[i]], [seeds[i]], *fixed_for_all, tell, variation, guide),
            )  # fmt: skip
        shape = (int(self.unet.config["in_channels"]), canvas[1] // FACTOR, canvas[0] // FACTOR)
        # One generator a sample, on the CPU: neither the batch nor the device changes the noise.
        noise = torch.stack([start_noise(shape, s, variation) for s in seeds]).to(device)
        text = [encode_prompts(self.tokenizer, self.text_encoder, [p]) for p in prompts]
        empty = encode_prompts(self.tokenizer, self.text_encoder, [""])
        tokens, mask, pooled = stacked([*text, *([empty] * n)])
        wraps = [float(w) for w in parse_axes(seamless)]
        fixed = [torch.full((2 * n,), v, device=device) for v in (scale, *wraps, DOMAIN)]
        condition = condition_vector(pooled.float(), *fixed).to(dtype)
        scheduler: Any = self.scheduler
        with warnings.catch_warnings():
            # diffusers' DPMSolverMultistepScheduler hands numpy 2 a tensor.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            first = begin(scheduler, steps, variation.strength, device)
        x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        known = known_latents(self.vae, variation, canvas, seamless)
        free = None if known is None else free_cells(variation, known)
        if known is not None:
            x = noised(known, noise, float(scheduler.sigmas[first]))
        hook = None if guide == "none" else TileGuide(decode=self._decoded, axes=guide, seeds=seeds)
        for i, t in enumerate(scheduler.timesteps[first:]):
            guided = guidance != 1 and GUIDED[0] <= float(t) / 1000 <= GUIDED[1]
            rows = slice(0, 2 * n if guided else n)
            both = torch.cat([x, x]) if guided else x
            v = self.unet(
                both.to(dtype),
                t.expand(len(both)),
                tokens[rows],
                class_labels=condition[rows],
                encoder_attention_mask=mask[rows],
                return_dict=False,
            )[0].float()
            if guided:
                v = v[n:] + guidance * (v[:n] - v[n:])
            if hook is not None:
                # flow matching: the velocity leads from the clean latents to the noise
                level, following = (float(s) for s in scheduler.sigmas[first + i : first + i + 2])
                v = (x - hook(x - level * v, level, following)) / level
            x = scheduler.step(v, t, x, return_dict=False)[0]
            if known is not None and free is not None:
                x = torch.where(free, x, noised(known, noise, float(scheduler.sigmas[first + i + 1])))
            if callback is not None:
                callback(i + 1, steps)
        return x

    @torch.no_grad()
    def decode(self, z: Tensor, seamless: SeamlessAxes = "none") -> Tensor:
        """Network maps (N, 8, 8 h, 8 w), float32 on the CPU, about [-1, 1], of latents (N, C, h, w).

        Call it inside `Seamless`; the axes are for a model that runs its autoencoder in tiles.
        """
        del seamless
        return self._decoded(z).cpu()

    def _decoded(self, z: Tensor) -> Tensor:
        """As `decode`, on the pipeline's device, with a gradient where one is asked for."""
        config = self.vae.config
        raw = z / config["scaling_factor"] + config["shift_factor"]
        return self.vae.decoder(raw.to(self.vae.dtype)).float()


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _guided(guide: SeamlessAxes, seamless: SeamlessAxes, mask: Tensor | None) -> SeamlessAxes:
    """`guide`, if it fits the rest; raises ZelligeError."""
    parse_axes(guide)
    if guide != "none" and any(axis in seamless for axis in guide):
        raise ZelligeError(f"Expected guide on axes that seamless leaves out, but got {guide} beside {seamless}.")
    if guide != "none" and mask is not None:
        raise ZelligeError(f"Expected no guide beside a mask, but got {guide}.")
    return guide


def _union(a: SeamlessAxes, b: SeamlessAxes) -> SeamlessAxes:
    if "none" in (a, b):
        return b if a == "none" else a
    return "xy"


def _fault(pipeline: MaterialPipeline, report: Mapping[str, Any]) -> str | None:
    """What is wrong with a checkpoint that loaded; the libraries fill gaps with noise or placeholders and go on."""
    for name, kind in (("vae", AutoencoderTiny), ("unet", UNet2DConditionModel)):
        module = getattr(pipeline, name)
        if not isinstance(module, kind):
            return f"its {name} is a {type(module).__name__}, not a {kind.__name__}"
        if any(parameter.is_meta for parameter in module.parameters()):
            return f"its {name} lacks weights"
    if report["missing_keys"] or report["mismatched_keys"]:
        return "its text_encoder lacks weights"
    words, known = len(pipeline.tokenizer), pipeline.text_encoder.config.vocab_size
    if words != known:
        return f"its tokenizer has {words} word pieces and its text_encoder {known}"
    return None


def one_by_one(n: int, callback: StepTold | None, make: Callable[[int, StepTold | None], Tensor]) -> Tensor:
    """`make(i, its callback)` of n samples as a batch, whose callback counts the steps of all.

    A CPU gains nothing from a batch, and one by one a sample is the same to the bit in any company.
    """

    return torch.cat([make(i, _told(i, n, callback)) for i in range(n)])


def _told(i: int, n: int, callback: StepTold | None) -> StepTold | None:
    """The callback of sample `i` of `n`, each with as many steps, that counts the steps of all."""
    return None if callback is None else lambda k, of, tell=callback: tell(i * of + k, n * of)


def stacked(parts: Sequence[PromptEmbedding]) -> PromptEmbedding:
    """Embeddings of different lengths as one batch, padded and masked."""
    longest = max(p.tokens.shape[1] for p in parts)

    def padded(x: Tensor) -> Tensor:
        extra = longest - x.shape[1]
        return torch.cat([x, x.new_zeros((1, extra, *x.shape[2:]))], 1) if extra else x

    tokens, mask = (torch.cat([padded(v) for v in values]) for values in list(zip(*parts, strict=True))[:2])
    return PromptEmbedding(tokens, mask, torch.cat([p.pooled for p in parts]))
