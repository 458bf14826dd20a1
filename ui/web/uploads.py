"""What comes from the browser: images of three formats, told by their content, within limits; and text in them."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from asd.errors import ZelligeError
from ui.locks import IMAGE_FORMATS
from ui.request import Kind, Request

MAX_PIXELS = 2**26
"""Of an upload: 8192 x 8192. An image states its size before it is unpacked."""
MAX_FILE = "64mb"
MAX_FILES = 64
MAX_TEXT = 2**18
"""Characters of text in a PNG that are read."""
NAMES: dict[Kind, str] = {"material": "a material", "image": "an image", "upscale": "an enlargement",
                          "maps": "maps of a photo"}  # fmt: skip
_DEVICES = re.compile("con|prn|aux|nul|com[0-9]|lpt[0-9]")


def check_image(path: str | Path, *, most: int = MAX_PIXELS) -> Path:
    """The path of an uploaded image of at most `most` pixels; raises ZelligeError for anything else."""
    from PIL import Image

    path = Path(path)
    told = printable(path.name)
    kinds = ", ".join(IMAGE_FORMATS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                width, height = image.size
                if width * height > most:
                    raise ZelligeError(f"Expected an image of at most {most / 1e6:.0f} million pixels, "
                                       f"but {told} has {width}x{height}")  # fmt: skip
                if getattr(image, "n_frames", 1) > 1:
                    raise ZelligeError(f"Expected a still image, but {told} moves")
    except ZelligeError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a forged file leads them to
        raise ZelligeError(f"Expected an image ({kinds}), but {told} is none") from error
    return path


def read_recall(path: str | Path, kind: Kind = "material") -> tuple[Request, list[str]]:
    """The request of one kind in a PNG that zellige wrote, and what of it was left out, in words.

    A file can be forged, so that its request passes the same checks as any other; models and paths in it are not taken.
    Raises ZelligeError for a file without a request, or with a wrong one.
    """
    from PIL import Image

    path = check_image(path)
    told = printable(path.name)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()  # text may follow the pixels
            text = image.text.get("zellige")  # pyright: ignore[reportAttributeAccessIssue] - PngImageFile has it
    except Exception as error:
        raise ZelligeError(f"Expected a whole PNG that zellige wrote, but {told} is none") from error
    if not isinstance(text, str):
        raise ZelligeError(f"Expected a PNG that zellige wrote, with its settings in it, but {told} has none")
    if len(text) > MAX_TEXT:
        raise ZelligeError(f"Expected settings of at most {MAX_TEXT} characters, but {told} has {len(text)}")
    try:
        values = json.loads(text)["request"]
        if not isinstance(values, dict):
            raise ValueError("no object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ZelligeError(f"Expected settings that can be read, but those in {told} are damaged") from error
    if values.get("kind", "material") != kind:
        raise ZelligeError(f"Expected the settings of {NAMES[kind]}, but {told} has those of something else")
    return trusted(values)


def trusted(values: dict[str, Any], places: tuple[Path, ...] = ()) -> tuple[Request, list[str]]:
    """A request of values that come from a file, without what only the owner of the machine may say; and what that was.

    A model can be any folder or a download, an image any file that the server can read: those outside of `places` are
    left out. Raises ZelligeError where nothing can be made without them.
    """
    left: list[str] = []
    values = dict(values)
    material = values.get("kind", "material") == "material"
    if values.get("image") is not None and (material or not inside(values["image"], places)):
        left.append("the picture that it was made of")
        values |= dict.fromkeys(("image", "mask", "strength"))
    elif values.get("mask") is not None and not inside(values["mask"], places):
        left.append("its mask")
        values["mask"] = None
    if material and values.get("vary") is not None:
        left.append("the neighbour that it varied towards")
        values |= dict.fromkeys(("vary", "amount"))
    if values.get("model") is not None:
        left.append("its model")
        values["model"] = None
    if values.get("lora") is not None:
        left.append("its LoRA")
        values |= dict.fromkeys(("lora", "lora_scale"))
    lock = values.get("lock")
    if isinstance(lock, dict):
        paths = [name for name, value in lock.items() if isinstance(value, str) and not value.startswith("#")]
        left += [f"the image that {printable(str(name))} was kept from" for name in paths]
        values["lock"] = {name: value for name, value in lock.items() if name not in paths}
    if values.get("kind") in ("maps", "upscale") and values.get("image") is None:
        raise ZelligeError("Expected the picture that it was made of to be kept here, but it is not")
    return Request.from_dict(values), left


def check_local(request: Request, places: tuple[Path, ...] = ()) -> None:
    """Raise ZelligeError for what the page does not let a request name: models, and images outside of `places`."""
    if request.model is not None:
        raise ZelligeError("Expected no model, since the page works with the one in the package, but got one")
    if request.lora is not None:
        raise ZelligeError("Expected no LoRA, since the page works with the model in the package, but got one")
    paths = {"image": request.image, "mask": request.mask}
    paths |= {f"locked {n}": v for n, v in request.lock if isinstance(v, str) and not v.startswith("#")}
    for name, value in paths.items():
        if value is not None and not inside(value, places):
            wanted = f"no {name}" if name in ("image", "mask") else f"the {name} to be a number or a colour"
            raise ZelligeError(f"Expected {wanted}, since the page reads no files of the server, but got a path")


def inside(path: object, places: tuple[Path, ...]) -> bool:
    """Whether a path leads, links followed, to a file inside of one of the folders."""
    try:
        there = Path(str(path)).resolve()
        return any(there.is_relative_to(place.resolve()) for place in places) and there.is_file()
    except (OSError, ValueError, RuntimeError):  # no path at all, or links in a circle
        return False


def printable(name: str, most: int = 80) -> str:
    """A name from outside, for a sentence: without control characters or marks that turn the writing around."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return plain if len(plain) <= most else f"{plain[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def slug(text: str, default: str = "material") -> str:
    """A part of a folder's name that is safe on every system.

    >>> slug("Mossy Cobblestone / wall!"), slug("../../etc"), slug("苔"), slug("CON")
    ('mossy-cobblestone-wall', 'etc', 'material', 'material-con')
    """
    words = re.findall(r"[a-z0-9]+", text.lower()[:400])
    made = "-".join(words)[:40].strip("-") or default
    return f"{default}-{made}" if _DEVICES.fullmatch(made) else made
