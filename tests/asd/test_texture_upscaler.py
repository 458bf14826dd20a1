"""The shipped upscaler's class with random weights: rolls, tiles, sizes, and runs that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asd import upscale
from asd.errors import CheckpointError, OutputError, ZelligeError
from asd.resample import resample
from asd.texture_enlarge import TextureEnlargement, enlarge_texture, enlarged_texture, load_upscaler, stages
from asd.texture_tiles import TileRun
from asd.texture_upscaler import ResidualBlock, TextureUpscaler, extended, load_file
from asd.vae_layers import Span
from kernels import linear_attention

ROOT = Path(__file__).parents[2]


def network(blocks: int = 3) -> TextureUpscaler:
    """A small one whose residual is as large as a picture's contrast."""
    torch.manual_seed(0)
    made = TextureUpscaler(channels=16, blocks=blocks, attend_after=1, heads=2, detail=4).eval()
    with torch.no_grad():
        for block in made.body:
            assert isinstance(block, ResidualBlock)
            block.second.weight.mul_(10)
        made.attention.out.weight.mul_(10)
        made.last.weight.normal_(std=0.3)
    return made


def picture(width: int = 37, height: int = 29) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def as_bytes(pixels: Tensor) -> Any:
    return (pixels * 255).round().to(torch.uint8).numpy()


@torch.no_grad()
@pytest.mark.parametrize(("axes", "shift"), [("xy", (5, 7)), ("x", (0, 11)), ("y", (3, 0))])
def test_rolling_the_picture_rolls_the_result(axes: Any, shift: tuple[int, int]) -> None:
    model, pixels = network(), picture()[None]
    noise = torch.randn(1, 1, *pixels.shape[2:], generator=torch.Generator().manual_seed(2))
    whole = model(pixels, noise, axes)
    rolled = model(pixels.roll(shift, (2, 3)), noise.roll(shift, (2, 3)), axes)
    assert whole.shape == (1, 3, 116, 148) and whole.std() > 0.2
    assert (rolled - whole.roll([4 * s for s in shift], (2, 3))).abs().max() <= 1e-4
    # and without its axes it doesn't, so that the test can fail
    other = model(pixels.roll(shift, (2, 3)), noise.roll(shift, (2, 3)), "none")
    assert (other - model(pixels, noise, "none").roll([4 * s for s in shift], (2, 3))).abs().max() > 1e-2


@torch.no_grad()
def test_an_untrained_network_is_a_bicubic_and_noise_changes_a_trained_one() -> None:
    pixels, noise = picture()[None], torch.randn(1, 1, 29, 37)
    plain = TextureUpscaler(channels=8, blocks=2, attend_after=1, heads=2)
    for axes, wrap in (("none", False), ("xy", True)):
        made = plain(pixels, noise, axes)
        assert (made - resample(pixels, (116, 148), wrap_x=wrap, wrap_y=wrap)).abs().max() < 1e-5
    model = network()
    assert (model(pixels, noise) - model(pixels, -noise)).abs().max() > 1e-2
    for bad in ((pixels[:, :2], noise), (pixels, noise[..., :3]), (pixels[0], noise)):
        with pytest.raises(ZelligeError, match=r"Expected pixels \(N, 3, H, W\)"):
            model(*bad)
    with pytest.raises(ZelligeError):
        model(pixels, noise, "z")


@torch.no_grad()
def test_training_sees_what_use_computes() -> None:
    model, pixels = network(), picture()[None]
    noise = torch.randn(1, 1, 29, 37)
    cells = torch.cat([pixels, noise], 1)
    around = extended(cells, model.reach, wrap_x=True, wrap_y=False)
    assert (model.train_forward(around, model.reach) - model(pixels, noise, "x")).abs().max() < 1e-4


@torch.no_grad()
def test_the_sums_are_linear_attention() -> None:
    attention = network().attention
    x = torch.randn(2, 16, 5, 6)
    q, k, v = (part.unflatten(1, (2, 8)).flatten(3).transpose(2, 3)
               for part in (attention.query(x), *attention.told(x).chunk(2, 1)))  # fmt: skip
    read = linear_attention(torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1, v)
    wanted = x + attention.out(read.transpose(2, 3).flatten(1, 2).unflatten(2, (5, 6)))
    assert (attention(x, attention.sums(x)) - wanted).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("axes", ["none", "x", "xy"])
def test_tiles_are_the_whole(axes: Any) -> None:
    model, pixels = network(), picture(61, 45)
    wrap = ("y" in axes, "x" in axes)
    run = TileRun(model, pixels.numpy(), wrap=wrap, seed=3, tile=16)
    assert (len(run.rows), len(run.columns)) == (3, 4)
    made = torch.empty(3, 180, 244)
    sums = torch.stack([run.gather(row) for row in range(3)]).sum(0)
    for row in range(3):
        for rows, columns, part in run.paint(sums, row):
            made[:, rows.start : rows.stop, columns.start : columns.stop] = part
    noise = run.cells(Span(0, 45), Span(0, 61), 0)
    whole = model(pixels[None], noise[:, 3:], axes)[0]
    assert (made - whole).abs().max() <= 1e-4


def test_sizes_on_the_way() -> None:
    assert [tuple(s) for s in stages((64, 64), (2048, 1024))] == [(64, 64), (256, 256), (512, 256)]
    assert [tuple(s) for s in stages((64, 64), (100, 90))] == [(64, 64)]


@pytest.mark.parametrize(("size", "axes"), [((148, 116), "none"), ((101, 79), "xy"), ((200, 157), "x")])
def test_files_hold_what_memory_would(size: tuple[int, int], axes: Any, tmp_path: Path) -> None:
    model, pixels, seen = network(), picture(), []
    job = TextureEnlargement(size=size, seamless=axes, seed=4, tile=13)
    given = as_bytes(pixels)
    made = enlarge_texture(given, model, tmp_path, job, callback=lambda *at: seen.append(at))
    whole = upscale(given.transpose(1, 2, 0), model, size=size, seamless=axes, seed=4, output_type="pt")
    assert made.shape == (3, size[1], size[0]) == tuple(whole.shape)
    # bytes are rounded once; before the last resampling too; and before a second network, which makes more of it
    bound = {148: 0.51, 101: 1.2, 200: 8}[size[0]]
    assert (torch.from_numpy(made.astype(np.float32)) - whole * 255).abs().max() <= bound
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", "result.npy"]


def test_a_size_kept_is_left_alone(tmp_path: Path) -> None:
    given = as_bytes(picture())
    made = enlarge_texture(given, network(), tmp_path, TextureEnlargement(size=(37, 29)))
    assert np.array_equal(made, given)
    assert torch.equal(enlarged_texture(picture(), network(), (37, 29)), picture())


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    model, given = network(), as_bytes(picture())
    job = TextureEnlargement(size=(300, 235), seamless="x", seed=4, tile=13)
    wanted = np.array(enlarge_texture(given, model, tmp_path / "whole", job))

    def stopper(left: int) -> Any:
        def stop(done: int, total: int) -> None:
            nonlocal left
            del done, total
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        return stop

    stops, made = 0, None
    while stops < 50:
        try:
            made = enlarge_texture(given, model, tmp_path / "stopped", job, callback=stopper(20))
            break
        except KeyboardInterrupt:
            stops += 1
    assert 3 < stops < 50 and made is not None and np.array_equal(made, wanted)


HOST = """
    import os, random, signal, sys, time, warnings
    from pathlib import Path
    warnings.simplefilter("ignore")
    import torch
    torch.set_num_threads(1)
    from asd.texture_enlarge import TextureEnlargement, enlarge_texture
    from tests.asd.test_texture_upscaler import as_bytes, network, picture

    kills, folder = int(sys.argv[1]), Path(sys.argv[2])
    model, given = network(6), as_bytes(picture(90, 70))
    job = TextureEnlargement(size=(400, 311), seamless="y", seed=4, tile=20)

    def child(out):
        pid = os.fork()
        if pid == 0:
            enlarge_texture(given, model, out, job)
            os._exit(0)
        return pid

    began = time.monotonic()
    assert os.waitpid(child(folder / "whole"), 0)[1] == 0
    span = time.monotonic() - began
    wanted = (folder / "whole" / "result.npy").read_bytes()
    dice, killed, ended, k = random.Random(1), 0, 0, 0
    while killed < kills:
        pid = child(folder / f"job-{k}")
        time.sleep(dice.uniform(0, 0.6 * span))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        killed += os.WIFSIGNALED(status)
        if status == 0:
            assert (folder / f"job-{k}" / "result.npy").read_bytes() == wanted
            ended, k = ended + 1, k + 1
    assert os.waitpid(child(folder / f"job-{k}"), 0)[1] == 0
    assert (folder / f"job-{k}" / "result.npy").read_bytes() == wanted
    print(killed, ended + 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks, to spare each run the loading of torch")
def test_kill_9_at_any_moment_changes_no_byte(tmp_path: Path) -> None:
    kills = int(os.environ.get("ZELLIGE_KILLS", "6"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HOST), str(kills), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    killed, finished = map(int, done.stdout.split()[-2:])
    assert killed == kills and finished >= 1


def test_folders_and_files_that_cannot_be_used(tmp_path: Path) -> None:
    model, given = network(), as_bytes(picture())
    job = TextureEnlargement(size=(148, 116), tile=13)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enlarge_texture(given, model, tmp_path / "job", job, callback=stop)
    with pytest.raises(ZelligeError, match="that of another"):
        enlarge_texture(given, model, tmp_path / "job", TextureEnlargement(size=(148, 116), seed=1, tile=13))
    (tmp_path / "job" / "0-rows.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="damaged"):
        enlarge_texture(given, model, tmp_path / "job", job)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="refused"):
        enlarge_texture(given, model, tmp_path / "file" / "job", job)
    with pytest.raises(ZelligeError, match="image \\(3, H, W\\) of bytes"):
        enlarge_texture(picture().numpy(), model, tmp_path / "bytes", job)  # pyright: ignore[reportArgumentType] - what is refused


def test_weights_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks them"):
        load_upscaler("cpu", tmp_path)
    network().half().save_pretrained(tmp_path / "good")
    model = load_upscaler("cpu", tmp_path / "good")
    assert model.head.weight.dtype == torch.float32 and not model.training
    file = tmp_path / "good" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:99])
    file.with_name("config.json").rename(tmp_path / "config.json")
    file.rename(tmp_path / file.name)
    with pytest.raises(CheckpointError, match="does not load"):
        load_upscaler("cpu", tmp_path)
    with pytest.raises(CheckpointError, match="does not load"):
        load_file(tmp_path / file.name)


@pytest.mark.parametrize("option", [{"prompt": "a"}, {"strength": 0.5}, {"steps": 3}, {"faithful": True}])
def test_options_of_diffusion_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ZelligeError, match="works in one step"):
        upscale(picture(), network(), factor=2, **option)
