"""`export_material`: packs for engines, tools and material libraries, all of them or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from materials.atomic import refused, replacing, staged
from materials.export.archive import write_zip
from materials.export.blender import write_blender
from materials.export.engines import write_godot, write_unity, write_unreal
from materials.export.extra import check_library
from materials.export.gltf import write_gltf
from materials.export.libraries import write_ambientcg, write_polyhaven
from materials.export.materialx import write_materialx
from materials.export.sink import Sink, described, digest
from materials.export.source import Source, name_of
from materials.export.stage import MANIFEST, check_place
from materials.export.targets import TARGETS, parse_targets
from materials.export.usd import write_usd
from materials.material import Material
from materials.recognise import read_maps

_WRITERS: dict[str, Callable[[Source, Sink], None]] = {
    "gltf": write_gltf,
    "usd": write_usd,
    "materialx": write_materialx,
    "unreal": write_unreal,
    "unity": write_unity,
    "godot": write_godot,
    "blender": write_blender,
    "ambientcg": write_ambientcg,
    "polyhaven": write_polyhaven,
}


def export_material(
    material: Material | str | Path,
    targets: str | Sequence[str],
    out: str | Path,
    *,
    name: str | None = None,
    zipped: bool = False,
    overwrite: bool = False,
    depth_m: float | None = None,
    size_m: tuple[float, float] | None = None,
    directx: bool = False,
) -> list[Path]:
    """Write a pack of `material` for every target into `out`, and `pack.json`, which lists all of it.

    `out` appears whole or not at all. It holds a folder per target, or `name-target.zip`; the same material gives the
    same bytes. What each target gets is in docs/export.md.

    Args:
        material: a `Material`, a folder that `save_material` wrote, or one of another tool (`materials.recognise`)
            that has all maps but perhaps metallic.
        targets: among `TARGETS`, as a sequence or a text such as "gltf,usd"; "all".
        out: a folder that is absent or empty.
        name: what the files' names start with, letters, digits and _; by default after the folder, or "material".
        zipped: a zip file per target in place of a folder.
        overwrite: replace `out` if it is an earlier export and nothing else.
        depth_m: metres between height 0 and 1, for a folder that does not say.
        size_m: physical (width, height) in metres, for a folder that does not say.
        directx: whether the normals of a folder that does not say are DirectX.

    Returns:
        The files in `out`, sorted, `pack.json` last.

    Raises:
        ZelligeError: for an unknown target, a name that cannot be one, a folder whose maps are missing or do not fit,
            or a library that is not installed (targets usd and materialx).
        OutputError: where `out` cannot be written or replaced.
    """
    chosen, out = parse_targets(targets), Path(out)
    for target in chosen:
        check_library(target)
    check_place(out, overwrite=overwrite)
    if isinstance(material, Material):
        source = Source.of(material, name or "material")
    else:
        folder = Path(material)
        found = read_maps(folder, depth_m=depth_m, size_m=size_m, directx=directx)
        source = Source.of(found.to_material(), name or name_of(folder.resolve().name))
    with staged(out) as stage, refused(out):
        names = _write_all(source, chosen, stage, zipped)
    return [*(out / name for name in names), out / MANIFEST]


def _write_all(source: Source, targets: Sequence[str], stage: Path, zipped: bool) -> list[str]:
    manifest: dict[str, Any] = {"schema": "1", **described(source), "targets": {}, "files": []}
    for target in (t for t in TARGETS if t in targets):
        folder = stage / target
        folder.mkdir()
        sink = Sink(folder, source)
        _WRITERS[target](source, sink)
        entry: dict[str, Any] = {"files": sink.files}
        if zipped:
            archive = write_zip(stage / f"{source.name}-{target}.zip", folder)
            shutil.rmtree(folder)
            entry |= {"archive": archive.name, "sha256": digest(archive)}
        manifest["targets"][target] = entry
    names = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
    manifest["files"] = names
    with replacing(stage / MANIFEST) as handle:
        handle.write((json.dumps(manifest, indent=2) + "\n").encode())
    return names
