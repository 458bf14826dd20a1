from __future__ import annotations

import json
import pickle

import pytest

from asd.errors import SizeError, ZelligeError
from ui.request import MAX_PROMPT, MAX_SEED, OWN_SIZE, Request

FULL = {
    "prompt": "Moos über Stein\nnass",
    "kind": "material",
    "size": "1x64",
    "seamless": "x",
    "seed": 7,
    "count": 3,
    "steps": 2,
    "guidance": 1.5,
    "scale": 0.5,
    "lock": {"basecolor": "#a0522d", "height": "relief.png", "roughness": 0.8},
    "model": "some/folder",
    "height_format": "exr",
    "strip_metadata": True,
}


MAPS = {"kind": "maps", "image": "photo.jpg"}
VARIED = FULL | {"image": "wall", "strength": 0.5, "mask": "mask.png", "vary": 8, "amount": 0.25}
FULL_MAPS = MAPS | {"size": "7x5", "seamless": "xy", "model": "some/folder", "height_format": "exr"}
FULL_MAPS |= {"strip_metadata": True}


@pytest.mark.parametrize(
    "values", [FULL, {"prompt": "x"}, {"prompt": "x", "size": [3, 4], "lock": {}}, VARIED, MAPS, FULL_MAPS]
)
def test_dict_round_trip_through_json(values: dict[str, object]) -> None:
    request = Request.from_dict(values)
    assert Request.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    assert pickle.loads(pickle.dumps(request)) == request
    assert hash(request) == hash(Request.from_dict(values))


def test_to_dict_of_a_full_request_is_what_was_given() -> None:
    assert Request.from_dict(FULL).to_dict() == FULL
    assert Request.from_dict(VARIED).to_dict() == VARIED
    assert Request.from_dict(FULL_MAPS).to_dict() == FULL_MAPS
    assert Request.from_dict(FULL | {"guide": "y"}).to_dict() == FULL | {"guide": "y"}
    assert Request.from_dict(FULL | {"refine": 4}).to_dict() == FULL | {"refine": 4}


def test_each_kind_has_its_own_defaults() -> None:
    material, maps = Request(prompt="oak"), Request(kind="maps", image="photo.jpg")
    assert (material.size, material.seamless) == ((512, 512), "xy")
    assert (maps.size, maps.seamless) == (OWN_SIZE, "auto")
    assert maps.sample(0) == maps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "image to be the path of a photo, but got None"),
        ({"image": " "}, "path of a photo"),
        ({"image": 3}, "path of a photo, but got 3"),
        ({"prompt": "oak"}, "prompt only for kind material"),
        ({"seed": 1}, "seed only for kind material"),
        ({"lock": {"roughness": 1}}, "lock only for kind material"),
        ({"strength": 0.5}, "strength only for kind material"),
        ({"count": 2}, "count only for kind material"),
        ({"seamless": "yx"}, "seamless to be auto or none or x or y or xy, but got 'yx'"),
        ({"size": "0x0"}, "both sides of size"),
        ({"size": "0x5"}, "both sides of size"),
    ],
)
def test_bad_values_of_maps_are_one_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(ZelligeError, match=message) as caught:
        Request.from_dict(MAPS | change)
    assert str(caught.value).startswith("Expected ")


def test_order_of_locks_is_no_difference() -> None:
    first = Request.from_dict({"prompt": "x", "lock": {"roughness": 0.5, "height": 1}})
    assert first == Request.from_dict({"prompt": "x", "lock": {"height": 1, "roughness": 0.5}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "only the keys .*, but got 'colour'"),
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n"}, "empty"),
        ({"prompt": "x" * (MAX_PROMPT + 1)}, "at most 2000 characters, but got 2001"),
        ({"prompt": "x" * 10_000}, "at most 2000 characters, but got 10000"),
        ({"prompt": "a\0b"}, "plain text"),
        ({"prompt": "a\udcffb"}, "plain text"),
        ({"prompt": 3}, "text, but got 3"),
        ({"kind": "sketch"}, "kind to be material or maps"),
        ({"image": ""}, "image to be the path of a photo or a material's folder, but got ''"),
        ({"image": 3}, "image to be the path"),
        ({"strength": 0.5}, "strength beside image, but got strength alone"),
        ({"mask": "m.png"}, "mask beside image, but got mask alone"),
        ({"amount": 0.5}, "amount beside vary, but got amount alone"),
        ({"image": "a.png", "strength": 1.5}, "strength to be a number from 0 to 1, but got 1.5"),
        ({"image": "a.png", "mask": 1}, "mask to be the path of an image, but got 1"),
        ({"vary": -1}, "vary to be a whole number from 0"),
        ({"vary": 1, "amount": "x"}, "amount to be a number from 0 to 1"),
        ({"size": "0x0"}, "both sides of size"),
        ({"strip_metadata": 1}, "strip_metadata to be true or false, but got 1"),
        ({"seamless": "yx"}, "seamless to be none or x or y or xy, but got 'yx'"),
        ({"seamless": True}, "seamless"),
        ({"guide": "z", "seamless": "none"}, "guide to be none or x or y or xy, but got 'z'"),
        ({"guide": "x"}, "guide on axes that seamless leaves out, but got x beside xy"),
        ({"guide": "xy", "seamless": "y"}, "guide on axes that seamless leaves out, but got xy beside y"),
        ({"guide": "x", "seamless": "y", "image": "a.png", "mask": "m.png"}, "no guide beside a mask"),
        ({"guide": "x", "seamless": "none", "kind": "image"}, "no guide with kind image"),
        ({"refine": 3}, "refine to be 1, 2, 4 or 8, but got 3"),
        ({"refine": True}, "refine to be 1, 2, 4 or 8, but got True"),
        ({"refine": 2.0}, "refine to be 1, 2, 4 or 8, but got 2.0"),
        ({"refine": 2, "image": "a.png", "mask": "m.png"}, "no refine beside a mask, but got 2"),
        ({"refine": 2, "kind": "image"}, "no refine with kind image"),
        ({"seed": -1}, "seed to be a whole number from 0"),
        ({"seed": MAX_SEED, "count": 2}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"seed": True}, "seed"),
        ({"count": 0}, "count to be a whole number from 1 to 10000, but got 0"),
        ({"steps": 0}, "steps"),
        ({"steps": "8"}, "steps"),
        ({"guidance": float("nan")}, "guidance to be a number from 0 to 100, but got nan"),
        ({"scale": -0.1}, "scale"),
        ({"scale": 10**5000}, "thousands of digits"),
        ({"model": ""}, "model"),
        ({"height_format": "png"}, "png16 or exr"),
        ({"lock": ["roughness"]}, "lock to be an object"),
        ({"lock": {"ao": 0.5}}, "lock to name basecolor or normal or height or roughness or metallic, but got 'ao'"),
        ({"lock": {"roughness": 1.1}}, "0 to 1"),
        ({"lock": {"roughness": "#ffffff"}}, "no colour"),
        ({"lock": {"basecolor": 0.5}}, "a colour such as #a0522d or the path"),
        ({"lock": {"basecolor": "#fff"}}, "a colour such as"),
        ({"lock": {"normal": 0.5}}, "the path of an image"),
        ({"lock": {"height": ""}}, "empty"),
    ],
)
def test_bad_values_are_one_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(ZelligeError, match=message) as caught:
        Request.from_dict({"prompt": "oak"} | change)
    assert str(caught.value).startswith("Expected ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "size",
    ["", "0x5", "5x0", "-5x5", "5x-5", "5", "5x", "x5", "5x5x5", "5X5", "5.0x5", "5 x5", "９x9", "1e3x5",
     "9" * 5000 + "x1", "99999999x99999999", (0, 5), (5,), (5.0, 5), (True, 5), None, 512],
)  # fmt: skip
def test_bad_sizes(size: object) -> None:
    with pytest.raises(SizeError, match=r"^Expected") as caught:
        Request.from_dict({"prompt": "oak", "size": size})
    assert len(str(caught.value)) < 300


def test_prompt_is_required() -> None:
    with pytest.raises(ZelligeError, match="the key 'prompt', but got seed"):
        Request.from_dict({"seed": 1})


def test_sample_is_the_request_of_one() -> None:
    request = Request(prompt="oak", seed=5, count=3, steps=2)
    assert request.sample(2) == Request(prompt="oak", seed=7, steps=2)
    with pytest.raises(ZelligeError, match="0 to 2, but got 3"):
        request.sample(3)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Request(prompt="oak").seed = 1  # pyright: ignore[reportAttributeAccessIssue]
