"""Low-rank adapters (LoRA, Hu et al. 2022) of a U-Net: new ones, files of them, and a pipeline with one for a while."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textile_metric.torchvision_guard import guard_torchvision

from .canvas_file import replacing
from .errors import CheckpointError, ZelligeError

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file's name that diffusers looks for."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = (
    "conv1", "conv2", "conv_shortcut", "proj_in", "proj_out", "downsamplers.0.conv", "upsamplers.0.conv",
)  # fmt: skip
"""Of residual blocks and of changes of size; and the linear or convolutional layers around attention."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
MAX_RANK = 1024
_ADAPTER = "zellige"
_PREFIX = "unet."


def check_rank(rank: int, alpha: float | None) -> None:
    """Raise ZelligeError for a rank or alpha that `add_lora` does not take."""
    if not 1 <= rank <= MAX_RANK:
        raise ZelligeError(f"Expected a rank from 1 to {MAX_RANK}, but got {rank}.")
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ZelligeError(f"Expected alpha above 0, but got {alpha:g}.")


def add_lora(
    unet: Any, rank: int, alpha: float | None = None, *, convolutions: bool = False, seed: int = 0
) -> dict[str, nn.Parameter]:
    """Freeze a U-Net and add an adapter to its attention; returns what is to be trained, by name, in float32.

    The adapter starts as an identity: of the two factors, the second is zeros.

    Args:
        rank: of the change to each layer.
        alpha: the change is scaled by alpha / rank; by default 1.
        convolutions: adapt `CONVOLUTIONS` too.
        seed: of the first factors.

    Raises:
        ZelligeError: a rank or alpha out of range; CheckpointError for a network without attention.
    """
    guard_torchvision()
    from peft import LoraConfig

    check_rank(rank, alpha)
    alpha = rank if alpha is None else alpha
    wanted = [*ATTENTION, *(CONVOLUTIONS if convolutions else ())]
    endings = [f".{name}" for name in wanted]
    if not any(name.endswith(ending) for name, _ in unet.named_modules() for ending in endings):
        raise CheckpointError(f"Expected a U-Net with attention, but got a {type(unet).__name__} that has none.")
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=wanted), adapter_name=_ADAPTER)  # pyright: ignore[reportArgumentType] - typed int, used as a factor
    made = {}
    for name, parameter in unet.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            made[name] = parameter
    return made


def lora_weights(unet: Any) -> dict[str, Tensor]:
    """An adapter's factors as diffusers' files name them, float32 on the CPU.

    alpha / rank is multiplied into the second factor, so that every program reads the same change without being told
    alpha.
    """
    from peft.utils import get_peft_model_state_dict

    config = unet.peft_config[_ADAPTER]
    share = config.lora_alpha / config.r
    state: dict[str, Tensor] = get_peft_model_state_dict(unet, adapter_name=_ADAPTER)
    return {
        _PREFIX + name: (value.detach().float() * (share if ".lora_B." in name else 1.0)).cpu().contiguous()
        for name, value in state.items()
    }


def save_lora(unet: Any, folder: Path, told: Mapping[str, str]) -> Path:
    """Write `lora_weights` into `folder`, whole or not at all; `told` goes into the header. Raises OutputError."""
    from safetensors.torch import save

    path = folder / WEIGHTS
    with replacing(path) as beside:
        # not save_file, which leaves a file that nobody else may read
        beside.write_bytes(save(lora_weights(unet), {"format": "pt", **told}))
    return path


def lora_file(source: str | Path) -> Path:
    """The file that a path means: itself, the `WEIGHTS` of a folder, or the only .safetensors file in it.

    Raises:
        CheckpointError: none, several, or a pickle.
    """
    path = Path(source)
    try:
        if path.is_dir():
            files = sorted(path.glob("*.safetensors"))
            named = [file for file in files if file.name == WEIGHTS] or files
            if len(named) > 1:
                raise CheckpointError(f"Expected one LoRA file in {path}, but got {len(named)}; name one.")
            if not named:
                held = "pickles alone" if any(file.suffix in PICKLES for file in path.iterdir()) else "none"
                raise CheckpointError(f"Expected a LoRA as .safetensors in {path}, but got {held}.")
            return named[0]
        if path.suffix in PICKLES:
            raise CheckpointError(f"Expected a LoRA as .safetensors, but got the pickle {path}.")
        if path.is_file():
            return path
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"Expected a LoRA in {str(source)[:200]!r}, but it cannot be read: {error}.") from error
    raise CheckpointError(f"Expected a LoRA file or a folder with one, but there is no {str(source)[:200]!r}.")


@contextmanager
def lora_loaded(pipeline: Any, source: str | Path, scale: float = 1.0) -> Iterator[None]:
    """A pipeline whose U-Net (and, of Stable Diffusion, text encoders) has a LoRA added as long as the block lasts.

    Args:
        pipeline: an `AnySizePipeline`, or another with a `unet` of diffusers.
        source: see `lora_file`; of Stable Diffusion in any form that diffusers reads.
        scale: strength; 0 changes nothing, 1 is as trained.

    Raises:
        CheckpointError: no LoRA, a pickle, or one of another model.
    """
    path = lora_file(source)
    guard_torchvision()
    base = getattr(pipeline, "base", pipeline)
    stable = hasattr(base, "load_lora_weights")
    try:
        state = _read(base, path) if stable else _own(path)
        _check(base.unet, state, path, stable=stable)
        with _quiet():
            if stable:
                base.load_lora_weights(
                    str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True,
                    adapter_name=_ADAPTER,
                )  # fmt: skip
                base.set_adapters([_ADAPTER], [scale])
            else:
                base.unet.load_lora_adapter(state, prefix="unet", adapter_name=_ADAPTER)
                base.unet.set_adapters([_ADAPTER], [scale])
    except CheckpointError:
        raise
    except Exception as error:  # diffusers, peft and safetensors raise all kinds for a file of another model
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"Expected a LoRA of this model in {path}, but it does not load: {reason}") from error
    try:
        yield
    finally:
        (base.unload_lora_weights if stable else base.unet.unload_lora)()


def _own(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _read(base: Any, path: Path) -> dict[str, Tensor]:
    """The factors of any form that diffusers knows, as it names them."""
    return type(base).lora_state_dict(
        str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True,
        unet_config=base.unet.config,
    )[0]  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """diffusers warns of text encoders that a LoRA leaves as they are."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _check(unet: Any, state: Mapping[str, Tensor], path: Path, *, stable: bool) -> None:
    """Raise CheckpointError for layers that the U-Net lacks, or other shapes; diffusers would warn and go on."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    text = ("text_encoder.", "text_encoder_2.")
    foreign = [name for name in state if not name.startswith((_PREFIX, *text) if stable else _PREFIX)]
    own = {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}
    if foreign or not own:
        got = f"{foreign[0][:100]!r}" if foreign else "nothing for it"
        raise CheckpointError(f"Expected a LoRA for a U-Net in {path}, but got {got}.")
    if not any(".lora_A." in name for name in own):
        own = convert_unet_state_dict_to_peft(own)
    layers = dict(unet.named_modules())
    for name, value in own.items():
        place, found, rest = name.partition(".lora_")
        side = rest.partition(".")[0]
        if not found or side not in ("A", "B") or name.endswith(".alpha"):
            continue
        layer = layers.get(place)
        shape = tuple(getattr(getattr(layer, "weight", None), "shape", ()))
        if len(shape) < 2 or value.ndim < 2:
            raise CheckpointError(f"Expected a LoRA of this model in {path}, but the model has no layer {place!r}.")
        axis = 1 if side == "A" else 0
        if value.shape[axis] != shape[axis]:
            raise CheckpointError(
                f"Expected a LoRA of this model in {path}, but for {place!r} it has {value.shape[axis]} channels "
                f"and the model {shape[axis]}."
            )
