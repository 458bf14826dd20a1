"""The four-step U-Net: its packed weights, its steps against a plain loop, and when it draws."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from asd import Seamless
from asd.lora import add_lora, lora_loaded, save_lora
from materials.errors import CheckpointError
from materials.few_steps import FILE, LEVELS, SCALE, changed, packed_changes, sample_few
from materials.pipeline import MaterialPipeline
from materials.prompt import encode_prompts
from tests import tiny


def nudged(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    state = unet.state_dict()
    return {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny.checkpoint(tmp_path_factory.mktemp("few") / "model")
    unet = MaterialPipeline.from_pretrained(made, device="cpu").unet
    (made / "few").mkdir()
    save_file(packed_changes(unet.state_dict(), nudged(unet)), made / "few" / FILE)
    return made


@pytest.fixture(scope="module")
def pipe(folder: Path) -> MaterialPipeline:
    return MaterialPipeline.from_pretrained(folder, device="cpu")


def test_packed_changes_are_within_half_a_step_of_each_channel(pipe: MaterialPipeline) -> None:
    before, after = pipe.unet.state_dict(), nudged(pipe.unet)
    packed = packed_changes(before, after)
    found = changed(pipe.unet, packed).state_dict()
    for name, value in after.items():
        most = packed[name + SCALE].max() / 2 if value.ndim > 1 else (value - before[name]).abs().max() * 2**-11
        assert float((found[name] - value).abs().max()) <= float(most) * 1.001 + 1e-6, name
        assert value.ndim < 2 or packed[name].dtype == torch.int8
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())  # a copy, not the network itself


def test_four_steps_are_euler_steps_of_the_student(pipe: MaterialPipeline) -> None:
    student = pipe.student
    assert student is not None
    seen: list[tuple[int, int]] = []
    with Seamless([student], "xy"):
        made = sample_few(pipe, ["oak"], [3], (256, 256), "xy", 0.0, lambda *step: seen.append(step))
        asked: list[dict[str, object]] = []
        hook = student.register_forward_pre_hook(lambda _, args, kw: asked.append(kw), with_kwargs=True)
        again = sample_few(pipe, ["oak"], [3], (256, 256), "xy", 0.0)
        hook.remove()
        x = torch.randn(made.shape, generator=torch.Generator().manual_seed(3))
        tokens = encode_prompts(pipe.tokenizer, pipe.text_encoder, ["oak"]).tokens
        with torch.no_grad():
            for (now, then), options in zip(pairwise(LEVELS), asked, strict=True):
                x = x + (then - now) * student(x, torch.full((1,), now * 1000), tokens, **options)[0]
    assert torch.equal(made, again) and seen == [(k, 4) for k in (1, 2, 3, 4)]
    torch.testing.assert_close(made, x, atol=1e-5, rtol=0)


def test_a_roll_of_the_noise_rolls_the_latents(pipe: MaterialPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from materials import few_steps

    plain = few_steps.start_noise
    assert pipe.student is not None
    with Seamless([pipe.student], "xy"):
        made = sample_few(pipe, ["oak"], [3], (256, 256), "xy", 0.0)
        monkeypatch.setattr(few_steps, "start_noise", lambda *given: plain(*given).roll((8, 4), (-2, -1)))
        rolled = sample_few(pipe, ["oak"], [3], (256, 256), "xy", 0.0)
    torch.testing.assert_close(rolled, made.roll((8, 4), (-2, -1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "few"),
    [({}, True), ({"steps": 4}, True), ({"steps": 3}, False), ({"guidance": 4.0}, False)],
)
def test_who_draws(pipe: MaterialPipeline, options: dict[str, object], few: bool) -> None:
    calls: list[str] = []
    handles = [
        network.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, network in (("student", pipe.student), ("unet", pipe.unet))
        if network is not None
    ]
    try:
        pipe("sand", size=(32, 32), seamless="none", **options)  # pyright: ignore[reportArgumentType, reportCallIssue] - options of a call
    finally:
        for handle in handles:
            handle.remove()
    assert not pipe.takes_few_steps(None, None, None, "x")  # a guide takes ten times as long as all of this
    assert set(calls) == {"student" if few else "unet"} and (len(calls) == 4 or not few)


def test_a_lora_is_the_many_step_networks(folder: Path, tmp_path: Path) -> None:
    """The adapter lies in that one alone: the student must not draw as if there were none."""
    tuned = MaterialPipeline.from_pretrained(folder, device="cpu")
    for parameter in add_lora(tuned.unet, 2).values():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.5
    save_lora(tuned.unet, tmp_path, {})
    pipe = MaterialPipeline.from_pretrained(folder, device="cpu")
    plain = pipe("sand", size=(32, 32))
    with lora_loaded(pipe, tmp_path):
        assert not pipe.takes_few_steps(None, None, None, None)
        assert not torch.equal(pipe("sand", size=(32, 32)).basecolor, plain.basecolor)
    assert pipe.takes_few_steps(None, None, None, None)
    assert torch.equal(pipe("sand", size=(32, 32)).basecolor, plain.basecolor)


def test_progress_of_a_refined_one_counts_four_steps(pipe: MaterialPipeline) -> None:
    seen: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe("sand", size=(256, 256), refine=2, callback=lambda *step: seen.append(step))
    assert [k for k, _ in seen] == list(range(1, seen[0][1] + 1)) and len({of for _, of in seen}) == 1
    assert seen[0][1] > 4


def test_changes_of_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tiny.checkpoint(tmp_path / "other")
    (other / "few").mkdir()
    save_file({"conv_in.weight": torch.zeros(3)}, other / "few" / FILE)
    with pytest.raises(CheckpointError, match="Expected changes of the U-Net"):
        MaterialPipeline.from_pretrained(other, device="cpu")
    (other / "few" / FILE).write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="does not load"):
        MaterialPipeline.from_pretrained(other, device="cpu")
