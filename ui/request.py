"""One frozen `Request`: what a command line, a manifest line, an API call and PNG metadata all become."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from asd.errors import SizeError, ZelligeError

Kind = Literal["material", "maps", "image", "upscale"]
Seamless = Literal["none", "x", "y", "xy"]
SeamlessOrAuto = Literal["auto", "none", "x", "y", "xy"]
HeightFormat = Literal["png16", "exr"]
LockedMap = Literal["basecolor", "normal", "height", "roughness", "metallic"]
Refine = Literal[1, 2, 4, 8]

MAX_PROMPT = 2000
"""Characters. The text encoder reads a few hundred; a longer text is a file pasted by mistake."""
MAX_SIDE = 2**20
"""Pixels. Far above what fits in memory, low enough that the estimate of the memory stays exact."""
MAX_STEPS = 1000
"""The training schedule has this many noise levels."""
MAX_SEED = 2**63 - 1
"""The largest seed that torch's generators and JSON readers with 64-bit integers both take."""
MAX_COUNT = 10_000
"""Result folders have four digits."""

OWN_SIZE = (0, 0)
"""The kind's own size: that of the photo for maps, `DEFAULT_SIZE` for all else."""
DEFAULT_SIZE = (512, 512)

DEFAULT_AMOUNT = 0.3
"""Of the way to the neighbour's noise."""
_VARIATION = ("image", "strength", "mask", "vary", "amount")
_LORA = ("lora", "lora_scale")
_MADE_ONLY = (
    "guide", "refine", "prompt", "seed", "count", "steps", "guidance", "scale", "lock", "negative",
    *_VARIATION[1:], *_LORA,
)  # fmt: skip
_PICTURES = ("image", "upscale")
_PICTURES_LACK = ("guide", "refine", "lock", "height_format", "vary", "amount")
_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to make. Equal requests give equal pixels on one machine; nothing about where or how it runs is in here.

    Raises `asd.errors.ZelligeError` (a `ValueError`) for a value outside its range, `SizeError` for a size.
    """

    prompt: str = ""
    """1 to `MAX_PROMPT` characters, without control characters; none for maps, and an enlargement may go without."""
    kind: Kind = "material"
    """"material": from the prompt; "maps": from `image`."""
    image: str | None = None
    """Path of the photo that maps are made of; of the photo or the material's folder that a material varies."""
    strength: float | None = None
    """How much of the image is made anew, 0 to 1; None is the pipeline's own default."""
    mask: str | None = None
    """Path of an image of the result's size, white where the image is made anew; all else is kept."""
    vary: int | None = None
    """Seed of a neighbour, towards whose noise that of every sample goes, by `amount`."""
    amount: float | None = None
    """How far, from 0 (the sample's own) to 1 (the neighbour's); `DEFAULT_AMOUNT` by default."""
    size: tuple[int, int] = OWN_SIZE
    """(width, height) in pixels."""
    seamless: SeamlessOrAuto = "auto"
    """The axes on which the tile repeats without a seam; "auto" is "xy" for a material, what the photo has for maps."""
    guide: Seamless = "none"
    """Axes, out of the others, along which a material is steered to tile by the tileability loss; it mostly does."""
    refine: Refine = 1
    """A material is made with so many times fewer texels along a side and refined to `size`: finer, not more of it."""
    seed: int = 0
    """Seed of the first sample; sample i has seed + i, whatever else the request holds."""
    count: int = 1
    steps: int | None = None
    """Denoising steps; None is the model's own default, as for `guidance` and `scale`."""
    guidance: float | None = None
    """Classifier-free guidance, 0 to 100."""
    scale: float | None = None
    """Size of the pattern, 0 to 1: log2(texels along its short side / 256); larger canvases show more of it."""
    lock: tuple[tuple[LockedMap, float | str], ...] = ()
    """Maps kept as given, sorted by name: a number 0..1 (scalar maps), "#rrggbb" (basecolor) or an image's path."""
    model: str | None = None
    """A diffusers folder or a hub id; None is the model inside the package."""
    lora: str | None = None
    """Path of a LoRA for the model, a .safetensors file or a folder with one, as `asd.train_arad` and others write."""
    lora_scale: float | None = None
    """Its strength, 0 to 2; None is 1, as it was trained."""
    height_format: HeightFormat = "png16"
    strip_metadata: bool = False
    """Leave prompt, seed and origin out of the files: no text in images, no request in material.json."""
    negative: str | None = None
    """What guidance leads away from, of kind image and upscale."""

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, get_args(Kind))
        if self.kind == "maps":
            self._check_maps()
        else:
            self._check_made()
        _check_choice("height_format", self.height_format, get_args(HeightFormat))
        _check_whole("count", self.count, 1, MAX_COUNT)
        _check_whole("seed", self.seed, 0, MAX_SEED - self.count + 1)
        if not isinstance(self.strip_metadata, bool):
            raise ZelligeError(f"Expected strip_metadata to be true or false, but got {_short(self.strip_metadata)}")
        if self.steps is not None:
            _check_whole("steps", self.steps, 1, MAX_STEPS)
        if self.guidance is not None:
            _check_number("guidance", self.guidance, 0.0, 100.0)
        if self.scale is not None:
            _check_number("scale", self.scale, 0.0, 1.0)
        if self.model is not None and not (isinstance(self.model, str) and self.model.strip()):
            raise ZelligeError(f"Expected model to be a folder or a hub id, but got {self.model!r}")
        if self.lora is not None:
            _check_path("lora", self.lora, "a LoRA")
        elif self.lora_scale is not None:
            raise ZelligeError("Expected lora_scale beside lora, but got lora_scale alone")
        if self.lora_scale is not None:
            _check_number("lora_scale", self.lora_scale, 0.0, 2.0)
        for name, value in self.lock:
            _check_lock(name, value)
        names = [name for name, _ in self.lock]
        if names != sorted(set(names)):
            raise ZelligeError(f"Expected lock to name each map once and in order, but got {names}")

    def _check_made(self) -> None:
        if self.prompt or self.kind != "upscale":
            _check_prompt(self.prompt)
        if self.kind in _PICTURES:
            self._check_picture()
        elif self.negative is not None:
            raise ZelligeError("Expected no negative with kind material, but got one")
        self._check_refine()
        self._check_variation()
        # frozen: the kind's own values take their places before anybody sees the request
        if self.size == OWN_SIZE:
            object.__setattr__(self, "size", DEFAULT_SIZE)
        if self.seamless == "auto":
            object.__setattr__(self, "seamless", "xy")
        _check_size(self.size)
        _check_choice("seamless", self.seamless, get_args(Seamless))
        self._check_guide()

    def _check_guide(self) -> None:
        _check_choice("guide", self.guide, get_args(Seamless))
        if self.guide != "none" and any(axis in self.seamless for axis in self.guide):
            raise ZelligeError(
                f"Expected guide on axes that seamless leaves out, but got {self.guide} beside {self.seamless}"
            )
        if self.guide != "none" and self.mask is not None:
            raise ZelligeError(f"Expected no guide beside a mask, but got {self.guide}")

    def _check_refine(self) -> None:
        if not (_is_whole(self.refine) and self.refine in get_args(Refine)):
            raise ZelligeError(f"Expected refine to be 1, 2, 4 or 8, but got {_short(self.refine)}")
        if self.refine != 1 and self.mask is not None:
            raise ZelligeError(f"Expected no refine beside a mask, but got {self.refine}")

    def _check_variation(self) -> None:
        for name, what in (("image", "a photo or a material's folder"), ("mask", "an image")):
            if getattr(self, name) is not None:
                _check_path(name, getattr(self, name), what)
        for name, needed in (("strength", "image"), ("mask", "image"), ("amount", "vary")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ZelligeError(f"Expected {name} beside {needed}, but got {name} alone")
        for name in ("strength", "amount"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 0.0, 1.0)
        if self.vary is not None:
            _check_whole("vary", self.vary, 0, MAX_SEED)
            if self.amount is None:
                object.__setattr__(self, "amount", DEFAULT_AMOUNT)

    def _check_maps(self) -> None:
        _check_path("image", self.image, "a photo")
        if self.size != OWN_SIZE:
            _check_size(self.size)
        _check_choice("seamless", self.seamless, get_args(SeamlessOrAuto))
        for field in dataclasses.fields(self):
            if field.name in _MADE_ONLY and getattr(self, field.name) != field.default:
                raise ZelligeError(f"Expected {field.name} only for kind material, but got it for maps")

    def _check_picture(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in _PICTURES_LACK and getattr(self, field.name) != field.default:
                raise ZelligeError(f"Expected no {field.name} with kind {self.kind}, but got one")
        if self.image is None and (self.kind == "upscale" or self.mask is not None or self.strength is not None):
            raise ZelligeError("Expected image to be the path of a picture, but got none")
        if self.kind == "upscale" and (self.mask is not None or self.count != 1 or self.scale is not None):
            raise ZelligeError("Expected one result without mask and scale of kind upscale, but got another request")
        if self.strength is not None and not (_is_number(self.strength, 0.0, 1.0) and self.strength > 0):
            raise ZelligeError(f"Expected strength to be above 0, up to 1, but got {_short(self.strength)}")
        if self.negative is not None:
            _check_prompt(self.negative)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """Read what `to_dict` writes: `size` as "WxH" (or a pair), `lock` as an object. Unknown keys are errors.

        >>> Request.from_dict({"prompt": "red brick", "size": "333x517"}).size
        (333, 517)
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ZelligeError(f"Expected only the keys {', '.join(known)}, but got {key!r}")
        if "prompt" not in values and values.get("kind") not in ("maps", "upscale"):
            raise ZelligeError(f"Expected the key 'prompt', but got {', '.join(map(str, values)) or 'nothing'}")
        resolved = dict(values)
        if "size" in resolved:
            resolved["size"] = parse_size(resolved["size"])
            _check_size(resolved["size"])  # here, since OWN_SIZE is what no text asks for
        if "lock" in resolved:
            lock = resolved["lock"]
            if not isinstance(lock, Mapping):
                raise ZelligeError(f"Expected lock to be an object of maps and values, but got {lock!r}")
            resolved["lock"] = tuple(sorted(lock.items(), key=lambda item: str(item[0])))
        return cls(**resolved)

    def to_dict(self) -> dict[str, Any]:
        """The kind's fields as plain JSON values; `from_dict` gives an equal request back."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {"size": f"{self.size[0]}x{self.size[1]}", "lock": dict(self.lock)}
        if self.kind == "material":
            foreign = ("negative", *(name for name in _VARIATION if values[name] is None))
            foreign += ("guide",) if self.guide == "none" else ()
            foreign += ("refine",) if self.refine == 1 else ()
        elif self.kind in _PICTURES:
            foreign = _PICTURES_LACK
        else:
            foreign = _MADE_ONLY if self.size != OWN_SIZE else (*_MADE_ONLY, "size")
        foreign = (*foreign, *(name for name in _LORA if values[name] is None))
        return {name: value for name, value in values.items() if name not in foreign}

    @property
    def axes(self) -> Seamless:
        """`seamless`, where it is settled before anything is made: for all kinds but maps."""
        return "xy" if self.seamless == "auto" else self.seamless

    def sample(self, index: int) -> Request:
        """The request of one sample alone: the same pixels as sample `index` of this one.

        >>> Request(prompt="oak", seed=7, count=4).sample(3).seed
        10
        """
        if not 0 <= index < self.count:
            raise ZelligeError(f"Expected a sample from 0 to {self.count - 1}, but got {index}")
        return dataclasses.replace(self, seed=self.seed + index, count=1)


def parse_size(value: object) -> tuple[int, int]:
    """(width, height) from "WxH" or a pair of whole numbers; raises `SizeError`. The range is `Request`'s to check."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is not None:
            return int(match[1]), int(match[2])
    elif isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value)):
        return value[0], value[1]
    raise SizeError(f"Expected size to be WIDTHxHEIGHT in pixels, such as 1024x768, but got {_short(value)}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ZelligeError(f"Expected {name} to be {' or '.join(choices)}, but got {_short(value)}")


def _check_path(name: str, value: object, what: str) -> None:
    if not (isinstance(value, str) and value.strip()):
        raise ZelligeError(f"Expected {name} to be the path of {what}, but got {_short(value)}")


def _check_prompt(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise ZelligeError(f"Expected prompt to be text, but got {_short(prompt)}")
    if not prompt.strip():
        raise ZelligeError("Expected prompt to say what to make, but got an empty text")
    if len(prompt) > MAX_PROMPT:
        raise ZelligeError(f"Expected prompt to have at most {MAX_PROMPT} characters, but got {len(prompt)}")
    for character in prompt:
        # control characters break the log and the PNG text chunks; lone surrogates cannot be written as UTF-8
        if character != "\n" and (ord(character) < 32 or ord(character) == 127 or 0xD800 <= ord(character) < 0xE000):
            raise ZelligeError(f"Expected prompt to be plain text, but got the character {character!r} in it")


def _check_size(size: object) -> None:
    width, height = parse_size(size)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise SizeError(f"Expected both sides of size to be 1 to {MAX_SIDE} pixels, but got {width}x{height}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if not (_is_whole(value) and low <= value <= high):  # pyright: ignore[reportOperatorIssue]  # _is_whole narrows
        raise ZelligeError(f"Expected {name} to be a whole number from {low} to {high}, but got {_short(value)}")


def _is_number(value: object, low: float, high: float) -> bool:
    # NaN and the infinities fail the comparison
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if not _is_number(value, low, high):
        raise ZelligeError(f"Expected {name} to be a number from {low:g} to {high:g}, but got {_short(value)}")


def _check_lock(name: object, value: object) -> None:
    maps = get_args(LockedMap)
    if name not in maps:
        raise ZelligeError(f"Expected lock to name {' or '.join(maps)}, but got {_short(name)}")
    if isinstance(value, str):
        if not value:
            raise ZelligeError(f"Expected the locked {name} to be the path of an image, but got an empty text")
        if value.startswith("#") and not (name == "basecolor" and _COLOUR.fullmatch(value)):
            kind = "a colour such as #a0522d" if name == "basecolor" else "no colour, which only basecolor can be"
            raise ZelligeError(f"Expected the locked {name} to be {kind}, but got {_short(value)}")
    elif name in ("basecolor", "normal"):
        colour = "a colour such as #a0522d or " if name == "basecolor" else ""
        raise ZelligeError(f"Expected the locked {name} to be {colour}the path of an image, but got {_short(value)}")
    elif not _is_number(value, 0.0, 1.0):
        raise ZelligeError(f"Expected the locked {name} to be 0 to 1 or the path of an image, but got {_short(value)}")


def _short(value: object) -> str:
    """`repr`, cut where a pasted file or a huge number would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
