"""Where an image comes from, as text for its file: for other generators, for this program, and for everybody (XMP)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args
from xml.sax.saxutils import quoteattr

from materials.defaults import FEW_STEPS, GUIDANCE, STEPS
from materials.errors import ZelligeError
from materials.png import XMP

Source = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicMedia"]
"""IPTC's words for: made by a trained model; made by one from somebody's pictures too; made by a procedure."""
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def describe(described: Mapping[str, Any], source: Source) -> dict[str, str]:
    """Keywords and texts of a PNG.

    `parameters` is the line that other generators write and read, `zellige` is `described` as JSON, and
    `XML:com.adobe.xmp` has the IPTC properties DigitalSourceType, AISystemUsed, AISystemVersionUsed and
    AIPromptInformation (IPTC Photo Metadata Standard 2025.1).

    Args:
        described: with the keys `request`, `size`, `seamless` and `versions` of `material.json`.
        source: what the image was made by.

    Raises ZelligeError for another source, or values that are not JSON.
    """
    if source not in get_args(Source):
        raise ZelligeError(f"Expected a source of {', '.join(get_args(Source))}, but got {source!r}.")
    try:
        own = json.dumps(described, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ZelligeError(f"Expected a request and extra entries that JSON can hold, but got {error}.") from error
    return {"parameters": parameters_line(described), "zellige": own, XMP: _xmp(described, source)}


def parameters_line(described: Mapping[str, Any]) -> str:
    """The prompt, then `Steps: 8, CFG scale: 5, Seed: 7, Size: 512x512, Tiling: True`, as AUTOMATIC1111 writes it.

    Readers take the last line for settings if it has three or more, and know the format by `Steps`: a model's default
    is written out. Values with commas or colons are quoted, as there.
    """
    request, size = described["request"], described["size"]
    prompt = " ".join(str(request.get("prompt") or "").split())
    found: dict[str, Any] = {}
    if prompt:  # else no model was asked
        guidance = request.get("guidance")
        found = {"Steps": _steps(request), "CFG scale": GUIDANCE if guidance is None else guidance}
    if request.get("seed") is not None:
        found["Seed"] = request["seed"]
    found["Size"] = f"{size[0]}x{size[1]}"
    if request.get("model") is not None:
        found["Model"] = request["model"]
    if (axes := described.get("seamless", "none")) != "none":
        found["Tiling"] = "True" if axes == "xy" else axes.upper()
    if version := described.get("versions", {}).get("zellige"):
        found["Version"] = f"zellige {version}"
    settings = ", ".join(f"{label}: {_quoted(value)}" for label, value in found.items())
    return f"{prompt}\n{settings}" if prompt else settings


def _steps(request: Mapping[str, Any]) -> int:
    """Those that were asked for, or the default of the U-Net that such a request is drawn by."""
    if request.get("steps") is not None:
        return int(request["steps"])
    many = request.get("kind") not in (None, "material") or request.get("guide") not in (None, "none")
    asked = any(request.get(name) is not None for name in ("guidance", "image", "lora", "model"))
    return STEPS if many or asked else FEW_STEPS


def _quoted(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if {",", ":", "\n"} & {*text} else text


def _xmp(described: Mapping[str, Any], source: Source) -> str:
    version = described.get("versions", {}).get("zellige", "")
    properties = {
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPES + source,
        "xmp:CreatorTool": f"zellige {version}".strip(),
        "Iptc4xmpExt:AISystemUsed": "" if source == "algorithmicMedia" else "zellige",
        "Iptc4xmpExt:AISystemVersionUsed": "" if source == "algorithmicMedia" else version,
        "Iptc4xmpExt:AIPromptInformation": str(described["request"].get("prompt") or ""),
    }
    lines = "\n".join(f"   {name}={quoteattr(_xml(value))}" for name, value in properties.items() if value)
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
   xmlns:xmp="http://ns.adobe.com/xap/1.0/"
   xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
{lines}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot have."""
    return "".join(
        c for c in text if c in "\t\n" or (" " <= c < "\ud800") or (c >= "\ue000" and c not in "\ufffe\uffff")
    )
