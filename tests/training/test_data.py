"""The data recipe: unpacking, decoding, the pack format and the command."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import archives, images, manifest
from training.archives import Package
from training.data import main
from training.manifest import Source, decode
from training.pack import Pack, Settings, write_pack


def waves(height: int = 32, width: int = 32) -> np.ndarray:
    """A smooth periodic height (H, W) in [0, 1]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return 0.5 + 0.25 * np.sin(2 * np.pi * x / width) + 0.25 * np.sin(2 * np.pi * 2 * y / height)


def normal_of(height: np.ndarray, depth: float = 2.0) -> np.ndarray:
    """OpenGL normals from central differences, the independent reference: n ~ (-dz/dx, +dz/drow, 1)."""
    dx = (np.roll(height, -1, 1) - np.roll(height, 1, 1)) / 2 * depth
    dy = (np.roll(height, -1, 0) - np.roll(height, 1, 0)) / 2 * depth
    n = np.stack([-dx, dy, np.ones_like(dx)], axis=-1)
    return n / np.linalg.norm(n, axis=-1, keepdims=True)


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def normal_image(normal: np.ndarray, *, y: str = "GL", alpha: np.ndarray | None = None) -> Image.Image:
    signed = normal * (1, -1, 1) if y == "DX" else normal
    rgb = as_bytes(signed * 0.5 + 0.5)
    return Image.fromarray(rgb if alpha is None else np.dstack([rgb, as_bytes(alpha)]))


def colour(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image: Image.Image | np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def make_deb(path: Path, files: dict[str, bytes], *, link: str | None = None) -> None:
    """A .deb as deb(5) describes it: an ar archive of debian-binary, control.tar.xz and data.tar.xz."""

    def tar_of(content: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
            for name, data in content.items():
                info = tarfile.TarInfo("./" + name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            if link:
                info = tarfile.TarInfo("./" + link)
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
        return buffer.getvalue()

    members = {"debian-binary": b"2.0\n", "control.tar.xz": tar_of({"control": b"x"}), "data.tar.xz": tar_of(files)}
    with path.open("wb") as handle:
        handle.write(b"!<arch>\n")
        for name, data in members.items():
            handle.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            handle.write(data + b"\n" * (len(data) % 2))


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return buffer.getvalue()


COLUMNS = "package path width height licence caption class split dup_cluster seam_x seam_y normal_path normal_y"
COLUMNS += " gloss_path height_source normal_lum_corr gloss_lum_corr"


def make_lists(folder: Path) -> Path:
    """textures.csv, packages.csv and debs/ of one small package with a zip archive inside."""
    height = waves()
    inner = {"t/a.png": png(colour(1)), "t/a_n.png": png(normal_image(normal_of(height), y="DX", alpha=height))}
    files = {"usr/plain.png": png(colour(2)), "usr/base.pk3": make_zip(inner), "usr/other.bin": b"unwanted"}
    debs = folder / "debs"
    debs.mkdir(parents=True)
    make_deb(debs / "tex_1_all.deb", files)
    data = (debs / "tex_1_all.deb").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (folder / "packages.csv").write_text(
        f"package,version,file,size,sha256\ntex,1,tex_1_all.deb,{len(data)},{digest}\n"
    )
    columns = [str(name) for name in COLUMNS.split()]
    empty: dict[str, str] = dict.fromkeys(columns, "")
    common = {"package": "tex", "licence": "GPL-2+", "dup_cluster": "7", "seam_x": "1.0", "seam_y": "3.0"}
    place = "tex/usr/base.pk3.d/t/"
    rows = [
        empty | common | {"path": "tex/usr/plain.png", "caption": "old wood", "class": "wood", "split": "train"},
        empty
        | common
        | {"path": place + "a.png", "caption": "grey bricks", "class": "brick", "split": "val"}
        | {"normal_path": place + "a_n.png", "normal_y": "DX", "height_source": manifest.ALPHA_OF_NORMAL}
        | {"normal_lum_corr": "0.1"},
    ]
    with (folder / "textures.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def make_sources(folder: Path, count: int) -> list[Source]:
    folder.mkdir(exist_ok=True)
    out = []
    for n in range(count):
        Image.fromarray(colour(n)).save(folder / f"{n}.png")
        out.append(Source(id=f"x{n}", path=f"{n}.png", caption="rock", dup_cluster=n, basecolor=folder / f"{n}.png"))
    return out


def test_command_makes_a_pack_from_packages_and_finishes_at_once_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = make_lists(tmp_path / "lists")
    command = ["--out", str(tmp_path / "out"), "--debs", str(lists / "debs"), "--map-quality", "100"]
    assert main(command, lists=lists) == 0
    assert "2 materials (1 train), 1 shards" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["index.json", "shard-000.safetensors"]
    pack = Pack(tmp_path / "out")
    pack.verify()
    assert (len(pack), pack.split("train"), pack.split("val")) == (2, [0], [1])
    assert pack.row(1)["tiles_x"] and not pack.row(1)["tiles_y"]
    assert pack.row(1)["licence"] == "GPL-2+"
    loaded = pack.load(1)
    # 8-bit source and 8-bit store: half a step each, seen through the renormalisation.
    assert np.abs(loaded["normal"] - normal_of(waves())).max() < 0.02
    assert np.abs(loaded["height"] - waves()).max() < 0.005
    assert set(pack.load(0)) == {"basecolor"}
    (lists / "debs" / "tex_1_all.deb").unlink()
    assert main(command, lists=lists) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda deb: deb.unlink(), "no such file"),
        (lambda deb: deb.write_bytes(deb.read_bytes()[:-2]), "bytes in"),
        (lambda deb: deb.write_bytes(deb.read_bytes()[:-2] + b"??"), "SHA-256"),
    ],
)
def test_missing_and_damaged_packages_are_one_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: object, message: str
) -> None:
    lists = make_lists(tmp_path)
    assert callable(damage)
    damage(lists / "debs" / "tex_1_all.deb")
    assert main(["--out", str(tmp_path / "out"), "--debs", str(lists / "debs")], lists=lists) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("training.data: Expected") and message in error
    assert not (tmp_path / "out" / "index.json").exists()


def test_without_apt_get_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="--debs"):
        archives.fetch(Package("tex", "1", "tex_1_all.deb", 1, "0"), tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="needs an executable script")
def test_packages_are_fetched_with_apt_get_and_kept_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lists, tools, kept = make_lists(tmp_path / "lists"), tmp_path / "tools", tmp_path / "kept"
    tools.mkdir()
    script = f"#!{sys.executable}\nimport shutil, sys\nassert sys.argv[1:] == ['download', 'tex=1']\n"
    script += f"shutil.copy({str(lists / 'debs' / 'tex_1_all.deb')!r}, '.')\n"
    (tools / "apt-get").write_text(script)
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    command = ["--out", str(tmp_path / "out"), "--download-dir", str(kept)]
    assert main(command, lists=lists) == 0
    assert sorted(p.name for p in kept.iterdir()) == ["tex_1_all.deb", "unpacked"]
    # The unpacked files serve the next pack without the package.
    (kept / "tex_1_all.deb").unlink()
    (tools / "apt-get").write_text(f"#!{sys.executable}\nraise SystemExit('no network')\n")
    assert main([*command, "--quality", "70"], lists=lists) == 0
    (kept / "unpacked" / "tex.done").unlink()
    assert main([*command, "--quality", "60"], lists=lists) == 2
    assert "no network" in capsys.readouterr().err


def test_unpack_writes_only_what_is_wanted(tmp_path: Path) -> None:
    lists = make_lists(tmp_path / "lists")
    archives.unpack(lists / "debs" / "tex_1_all.deb", ["usr/base.pk3.d/t/a.png"], tmp_path / "root")
    files = [p.relative_to(tmp_path / "root").as_posix() for p in (tmp_path / "root").rglob("*") if p.is_file()]
    assert files == ["usr/base.pk3.d/t/a.png"]


@pytest.mark.parametrize(
    "name", ["../x.png", "/x.png", "usr/../../x.png", "a.zip.d/../../x.png", "", "c:/x", "a\\..\\b"]
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    make_deb(tmp_path / "a.deb", {"usr/x": b"x"})
    with pytest.raises(ValueError, match="Expected a path"):
        archives.unpack(tmp_path / "a.deb", [name], tmp_path / "root")


def test_links_missing_members_and_damage_are_refused(tmp_path: Path) -> None:
    deb = tmp_path / "a.deb"
    make_deb(deb, {"usr/x": b"x", "usr/z.zip": make_zip({"a": b"a"})}, link="usr/l")
    with pytest.raises(ValueError, match="regular file"):
        archives.unpack(deb, ["usr/l"], tmp_path / "root")
    with pytest.raises(ValueError, match="no such member"):
        archives.unpack(deb, ["usr/none"], tmp_path / "root")
    with pytest.raises(ValueError, match="no such member"):
        archives.unpack(deb, ["usr/z.zip.d/none"], tmp_path / "root")
    data = deb.read_bytes()
    deb.write_bytes(data[: len(data) - 60])
    with pytest.raises(ValueError, match="undamaged package"):
        archives.unpack(deb, ["usr/none"], tmp_path / "root")
    deb.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Debian package"):
        archives.unpack(deb, ["usr/x"], tmp_path / "root")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "usr").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="Expected a path below"):
        archives.safe_join(tmp_path / "root2", "usr/x")


def test_decoding_of_modes() -> None:
    grey16 = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    assert images.to_grey(grey16).tolist() == [[0.0, 1.0]]
    assert images.to_rgb(grey16).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    palette = Image.fromarray(colour(0)).quantize(8)
    palette.info["transparency"] = bytes([0, 255])
    assert images.to_rgb(palette).shape == (32, 32, 3)
    transparency = images.alpha(palette)
    assert transparency is not None and set(np.unique(transparency)) == {0.0, 1.0}
    assert images.alpha(Image.fromarray(colour(0))) is None
    with pytest.raises(ValueError, match="GL or DX"):
        images.to_normal(Image.fromarray(colour(0)), "?")
    with pytest.raises(ValueError, match="readable image"):
        images.open_image(b"nothing")


@pytest.mark.parametrize("name", ["a.tga", "a.dds", "a.jpg", "a.png", "a.webp"])
def test_formats_are_read(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (16, 8), (200, 100, 50)).save(tmp_path / name)
    rgb = images.to_rgb(images.open_image(tmp_path / name))
    assert rgb.shape == (8, 16, 3)
    assert np.abs(rgb.astype(int) - (200, 100, 50)).max() <= 4


def test_sizes_are_fitted_and_never_enlarged() -> None:
    assert images.fitted(2048, 1024, 512) == (1024, 512)
    assert images.fitted(4096, 512, 512) == (1024, 128)
    assert images.fitted(256, 300, 512) == (256, 300)


def test_resizing_a_tile_commutes_with_rolling_it() -> None:
    image = colour(3, 64, 64)
    rolled = np.roll(image, (16, 32), (0, 1))
    small = images.resize(image, (16, 16), wrap_x=True, wrap_y=True)
    again = images.resize(rolled, (16, 16), wrap_x=True, wrap_y=True)
    assert np.abs(np.roll(small, (4, 8), (0, 1)) - again).max() < 1e-2
    clamped = images.resize(image, (16, 16))
    assert np.abs(clamped - small).max() > 1


def test_slope_agreement_and_levelling() -> None:
    normal, height = normal_of(waves()).astype(np.float32), waves()
    assert min(images.slope_agreement(normal, height)) > 0.95
    flipped = normal * np.array([1, -1, 1], dtype=np.float32)
    assert images.slope_agreement(flipped, height)[1] < -0.95
    tilted = images.unit(normal + np.array([0.3, -0.2, 0], dtype=np.float32))
    assert np.abs(images.level(tilted)[..., :2].mean((0, 1))).max() < 0.02


@pytest.mark.parametrize(
    ("case", "kept", "reason"),
    [
        ("right", {"normal", "height"}, ""),
        ("wrong direction", set(), "slopes against"),
        ("constant height", {"normal"}, "constant"),
        ("unrelated height", {"normal"}, "slopes unlike"),
        ("filter of the colour", {"normal"}, "follows the colour"),
    ],
)
def test_maps_that_contradict_are_dropped(tmp_path: Path, case: str, kept: set[str], reason: str) -> None:
    height = waves()
    stored = {"constant height": np.full_like(height, 0.5), "unrelated height": waves()[::-1, ::-1].T}.get(case, height)
    base = as_bytes(height)[..., None].repeat(3, 2) if case == "filter of the colour" else colour(5)
    Image.fromarray(base).save(tmp_path / "c.png")
    normal_image(normal_of(height), alpha=stored).save(tmp_path / "n.png")
    source = Source(
        id="a", path="c.png", caption="", dup_cluster=0, basecolor=tmp_path / "c.png", normal=tmp_path / "n.png",
        normal_y="DX" if case == "wrong direction" else "GL", height=tmp_path / "n.png", height_in_alpha=True,
        derived=True,
    )  # fmt: skip
    decoded = decode(source, 64, 64)
    assert set(decoded.maps) == kept
    assert reason in " ".join(decoded.dropped)


def test_normals_stay_unit_and_accurate_when_scaled_down_and_coded(tmp_path: Path) -> None:
    height = waves(128, 64)
    Image.fromarray(colour(1, 128, 64)).save(tmp_path / "c.png")
    normal_image(normal_of(height, 8.0)).save(tmp_path / "n.png")
    source = Source(
        id="a", path="c", caption="x", dup_cluster=0, basecolor=tmp_path / "c.png", normal=tmp_path / "n.png",
        tiles_x=True, tiles_y=True,
    )  # fmt: skip
    write_pack([source], tmp_path / "pack", Settings(map_size=32, map_quality=90))
    loaded = Pack(tmp_path / "pack").load(0)
    assert loaded["basecolor"].shape == (128, 64, 3)
    normal = loaded["normal"]
    assert normal.shape == (64, 32, 3) and normal.dtype == np.float32
    assert np.abs(np.linalg.norm(normal, axis=-1) - 1).max() < 1e-4
    want = images.unit(normal_of(height, 8.0).reshape(64, 2, 32, 2, 3).mean((1, 3)))
    angle = np.degrees(np.arccos(np.clip((normal * want).sum(-1), -1, 1)))
    assert angle.mean() < 2


def test_writing_goes_on_after_an_interruption_with_the_same_result(tmp_path: Path) -> None:
    sources = make_sources(tmp_path / "in", 6)
    settings = Settings(shard_bytes=2560)
    whole = write_pack(sources, tmp_path / "a", settings)
    assert len(whole["shards"]) >= 3

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(sources, tmp_path / "b", settings, progress=stop)
    with pytest.raises(ValueError, match="finished pack"):
        Pack(tmp_path / "b")
    first = tmp_path / "b" / "shard-000.safetensors"
    stamp = first.stat().st_mtime_ns
    assert write_pack(sources, tmp_path / "b", settings) == whole
    assert first.stat().st_mtime_ns == stamp
    first.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="bytes in"):
        Pack(tmp_path / "b")
    assert write_pack(sources, tmp_path / "b", settings) == whole
    Pack(tmp_path / "b").verify()
    fewer = write_pack(sources[:2], tmp_path / "b", settings)
    assert len(fewer["rows"]) == 2
    assert not list((tmp_path / "b").glob("shard-002*"))


def test_shards_keep_to_their_size_and_reading_is_threaded(tmp_path: Path) -> None:
    sources = make_sources(tmp_path / "in", 8)
    index = write_pack(sources, tmp_path / "pack", Settings(shard_bytes=4096))
    assert all(shard["bytes"] <= 4096 for shard in index["shards"])
    pack = Pack(tmp_path / "pack")
    many = pack.load_many(range(8), workers=4)
    assert all(np.array_equal(item["basecolor"], pack.load(n)["basecolor"]) for n, item in enumerate(many))
    data = bytearray((tmp_path / "pack" / "shard-000.safetensors").read_bytes())
    data[-20:] = bytes(20)
    (tmp_path / "pack" / "shard-000.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        pack.verify()


def test_any_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for name in ("OldBrick_01.png", "moss-wall.jpg"):
        Image.fromarray(colour(1)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    assert main(["--out", str(tmp_path / "out"), "--images", str(tmp_path / "photos")]) == 0
    assert {row["caption"] for row in Pack(tmp_path / "out").rows} == {"old brick", "moss wall"}
    (folder / "broken.png").write_bytes(b"x")
    assert main(["--out", str(tmp_path / "out2"), "--images", str(tmp_path / "photos")]) == 2
    assert "broken.png" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "out3"), "--images", str(tmp_path / "nowhere")]) == 2


def test_folders_of_maps(tmp_path: Path) -> None:
    root, height = tmp_path / "sets", waves()
    normal, rough = normal_of(height), as_bytes(waves()[::-1])
    for place, names in {
        "Rock01": ("basecolor.png", "normal.png", "height.png", "roughness.png", "metallic.png"),
        "Bricks001": (
            "B_1K-PNG_Color.png",
            "B_1K-PNG_NormalDX.png",
            "B_1K-PNG_Displacement.png",
            "B_Roughness.png",
            "",
        ),
        "ph": ("wood_diff_1k.png", "wood_nor_gl_1k.png", "wood_disp_1k.png", "wood_rough_1k.png", ""),
    }.items():
        folder = root / place
        folder.mkdir(parents=True)
        y = "DX" if place == "Bricks001" else "GL"
        depth = np.rint(height * 65535).astype(np.uint16)
        maps = [Image.fromarray(colour(1)), normal_image(normal, y=y), Image.fromarray(depth), Image.fromarray(rough)]
        for name, image in zip(names, [*maps, Image.fromarray(rough)], strict=True):
            if name:
                image.save(folder / name)
    (root / "Rock01" / "metadata.json").write_text(
        json.dumps({"name": "Mossy Rock", "tags": ["rock", "moss"], "physical_size": 1.5, "license": "CC0"})
    )
    assert main(["--out", str(tmp_path / "out"), "--matsynth", str(root), "--map-quality", "100"]) == 0
    pack = Pack(tmp_path / "out")
    by_path = {row["path"]: i for i, row in enumerate(pack.rows)}
    for place in ("Rock01", "Bricks001", "ph"):
        loaded = pack.load(by_path[place])
        assert np.abs(loaded["normal"] - normal).max() < 0.02
        assert np.abs(loaded["height"] - height).max() < 0.005
        assert np.abs(loaded["roughness"] * 255 - rough).max() < 0.01
    row = pack.row(by_path["Rock01"])
    assert (row["caption"], row["size_m"], row["licence"]) == ("mossy rock moss", [1.5, 1.5], "CC0")
    assert "metallic" in pack.load(by_path["Rock01"])
    (root / "Rock01" / "metadata.json").write_text("{")
    assert main(["--out", str(tmp_path / "out2"), "--matsynth", str(root)]) == 2
    assert main(["--out", str(tmp_path / "out2"), "--matsynth", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize("option", [["--size", "0"], ["--quality", "101"], ["--size", "99999"], ["--map-size", "-1"]])
def test_bad_settings_exit_2(tmp_path: Path, option: list[str]) -> None:
    assert main(["--out", str(tmp_path / "out"), "--images", str(tmp_path), *option]) == 2


def test_duplicate_ids_and_missing_packs_are_refused(tmp_path: Path) -> None:
    sources = make_sources(tmp_path / "in", 1)
    with pytest.raises(ValueError, match="unique ids"):
        write_pack(sources * 2, tmp_path / "out")
    with pytest.raises(ValueError, match="finished pack"):
        Pack(tmp_path / "none")


def test_the_project_lists_agree() -> None:
    here = Path(sys.modules["training.data"].__file__ or "").parent
    rows = manifest.read_list(here / "textures.csv")
    packages = archives.read_packages(here / "packages.csv")
    assert {row["package"] for row in rows} == {package.package for package in packages}
    assert all(len(package.sha256) == 64 and package.size > 10**7 for package in packages)
    for row in rows:
        assert all(name.startswith(row["package"] + "/") for name in manifest.members(row))
