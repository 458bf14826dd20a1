from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from asd.errors import ZelligeError
from ui.manifest import MAX_ID, ManifestError, Problem, Row, manifest_line, read_manifest
from ui.request import Request

ROWS = [
    Row(id="r1", line=1, request=Request(prompt="mossy wall", size=(512, 256), seed=7, kind="material")),
    Row(id="r-2.b_C", line=2, request=Request(prompt="Öl, \"rot\" 木\nzwei", scale=0.5, count=3, seamless="y")),
    Row(id="_3", line=3, request=Request(prompt="oak", lock=(("basecolor", "#a0522d"), ("roughness", 0.8)), steps=5)),
]  # fmt: skip


def read(folder: Path, text: str | bytes, name: str = "m.jsonl") -> tuple[Row, ...]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path)


def problems(folder: Path, text: str | bytes, name: str = "m.jsonl") -> tuple[Problem, ...]:
    with pytest.raises(ManifestError) as caught:
        read(folder, text, name)
    return caught.value.problems


def bare(rows: tuple[Row, ...] | list[Row]) -> list[tuple[str, Request]]:
    return [(row.id, row.request) for row in rows]


def test_json_lines_give_the_rows_back(tmp_path: Path) -> None:
    text = "".join(manifest_line(row) + "\n" for row in ROWS)
    assert list(read(tmp_path, text)) == ROWS
    assert list(read(tmp_path, text.rstrip("\n"), "M.NDJSON")) == ROWS


def test_csv_gives_the_rows_back(tmp_path: Path) -> None:
    text = (
        "id,prompt,kind,size,seed,seamless,scale,count,steps,lock.roughness,lock.basecolor\r\n"
        "r1,mossy wall,material,512x256,7,,,,,,\r\n"
        ',,,,,,,,,,\r\nr-2.b_C,"Öl, ""rot"" 木\nzwei",,,,y,0.5,3,,,\r\n\r\n'
        "_3,oak,,,,,,,5,0.8,#a0522d\r\n"
    )
    rows = read(tmp_path, text, "m.csv")
    assert bare(rows) == bare(ROWS)
    assert [row.line for row in rows] == [2, 4, 7]
    assert bare(read(tmp_path, b"\xef\xbb\xbf" + text.encode(), "m.csv")) == bare(ROWS)


def test_yaml_gives_the_rows_back(tmp_path: Path) -> None:
    text = """# rows
- {id: r1, kind: material, prompt: mossy wall, size: 512x256, seed: 7}
- id: r-2.b_C
  prompt: "Öl, \\"rot\\" 木\\nzwei"
  seamless: y
  scale: 0.5
  count: 3
- id: "_3"
  prompt: oak
  steps: 5
  guidance: null
  lock: {roughness: 0.8, basecolor: "#a0522d"}
"""
    rows = read(tmp_path, text, "m.yaml")
    assert bare(rows) == bare(ROWS)
    assert [row.line for row in rows] == [2, 3, 8]
    assert bare(read(tmp_path, text.replace("\n", "\r\n"), "m.yml")) == bare(ROWS)


def test_yaml_words_are_text_where_json_has_none(tmp_path: Path) -> None:
    """What YAML 1.1 takes for a truth value, a date, an octal or a time of day."""
    text = "".join(f"- {{id: {word}, prompt: {word}}}\n" for word in ("no", "2026-01-01", "007", "on", "0x1f"))
    assert [row.request.prompt for row in read(tmp_path, text, "m.yaml")] == ["no", "2026-01-01", "007", "on", "0x1f"]


def test_json_lines_may_have_a_mark_and_other_line_ends(tmp_path: Path) -> None:
    rows = read(tmp_path, '\ufeff{"id": "a", "prompt": "one"}\r\n\r\n  \n{"id": "b", "prompt": "t\u2028wo"}')
    assert [(row.id, row.line) for row in rows] == [("a", 1), ("b", 4)]


def test_all_faults_are_listed_with_their_lines(tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "prompt": "oak"}',
        '{"id": "a", "prompt": ""}',
        "",
        "no json",
        '{"prompt": "oak", "size": "0x8"}',
        '{"id": "b", "prompt": "oak", "stepz": 3}',
        '{"id": "c", "prompt": "oak", "seed": 1, "seed": 2}',
        '["id", "d"]',
    ]
    found = problems(tmp_path, "\n".join(lines))
    expected = [
        (2, "ids to differ in more than upper and lower case, but 'a' is there since line 1"),
        (2, "prompt to say what to make"),
        (4, "a JSON object, but column 1 is wrong"),
        (5, "the key 'id', but got none"),
        (5, "but got 0x8"),
        (6, "but got 'stepz'"),
        (7, "each key once, but got 'seed' twice"),
        (8, "a JSON object, but got ['id', 'd']"),
    ]
    assert len(found) == len(expected)
    for problem, (line, message) in zip(found, expected, strict=True):
        assert problem.line == line and message in problem.message and problem.message.startswith("Expected ")


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", ".hidden", "a.", "a/b", "a\\b", "../a", "/a", "C:", "a:b", "a b", "a\n", "a\0", "-a", "~", "ü",
        "con", "NUL", "Aux.txt", "com1", "LPT9.a.b", "results.jsonl", "Results-0001-of-0002.JSONL", "x" * (MAX_ID + 1),
        "\ud800", "<b>", "$HOME", "a*", "%2e%2e", "…",
    ],
)  # fmt: skip
def test_ids_that_are_no_safe_names(name: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, json.dumps({"id": name, "prompt": "oak"}))
    assert found.message.startswith("Expected id to ")


@pytest.mark.parametrize("value", [7, 1.5, True, ["a"], {"a": 1}])
def test_ids_that_are_no_text(value: object, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, json.dumps({"id": value, "prompt": "oak"}))
    assert found.message.startswith("Expected id to be text")


def test_safe_ids(tmp_path: Path) -> None:
    names = ["a", "0", "con1", "com", "a.b", "x" * MAX_ID, "_", "auxiliary", "nul_", "a..b", "jsonl"]
    rows = read(tmp_path, "".join(json.dumps({"id": name, "prompt": "oak"}) + "\n" for name in names))
    assert [row.id for row in rows] == names


def test_ids_that_a_case_insensitive_system_confuses(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, '{"id": "Oak", "prompt": "a"}\n{"id": "oAK", "prompt": "a"}')
    assert found.line == 2 and "since line 1" in found.message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "a", "prompt": "x", "guidance": NaN}', "numbers that JSON has, but got NaN"),
        ('{"id": "a", "prompt": "x", "guidance": -Infinity}', "but got -Infinity"),
        ('{"id": "a", "prompt": "x", "guidance": 1e999}', "from 0 to 100, but got inf"),
        ('{"id": "a", "prompt": "x", "seed": ' + "9" * 5000 + "}", "at most 40 digits, but got one of 5000"),
        ('{"id": "a", "prompt": "x", "seed": 9223372036854775808}', "seed to be a whole number"),
        ('{"id": "a", "prompt": "x", "lock": {"roughness": 1, "roughness": 0}}', "'roughness' twice"),
        ("[" * 10**5, "hundreds of levels deep"),
        ('{"id": "a", "prompt": ' + "[" * 500 + "]" * 500 + "}", "prompt to be text"),
        ('{"id": "a", "prompt": "x", "model": 3}', "model to be a folder"),
        ('{"id": "a", "prompt": "\\ud800"}', "the character '\\ud800'"),
        ('{"id": "a", "prompt": "\\u0000"}', "the character '\\x00'"),
    ],
)
def test_json_that_is_no_row(row: str, message: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, row)
    assert message in found.message and len(found.message) < 400


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "at least one row, but got none"),
        ("id,prompt\n", 1, "at least one row"),
        ("id,prompt,id\na,b,c\n", 1, "each column once, but got 'id' twice"),
        ("id,prompt\na,b\nc\n", 3, "2 cells as in the header, but got 1"),
        ("id,prompt\na,b,c\n", 2, "2 cells as in the header, but got 3"),
        ('id,prompt\na,"b\n\n', 2, "from here on it is not"),
        ('id,prompt\na,"b"c\n', 2, "from here on it is not"),
        ("id,prompt,seed\na,b,1.5\n", 2, "but got 1.5"),
        ("id,prompt,seed\na,b,07\n", 2, "but got '07'"),
        ("id,prompt,lock\na,b,c\n", 2, "columns such as lock.roughness"),
        ("id,prompt,lock.ao\na,b,1\n", 2, "but got 'ao'"),
        ("id,prompt\na," + "x" * 200_000 + "\n", 2, "field larger than field limit"),
    ],
)
def test_csv_that_is_no_manifest(text: str, line: int, message: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, text, "m.csv")
    assert found.line == line and message in found.message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "at least one row"),
        ("[]", 1, "at least one row"),
        ("id: a\nprompt: b\n", 1, "a YAML list of rows"),
        ("- {id: a, prompt: b}\n---\n- {id: c, prompt: d}\n", 3, "a second document"),
        ("- {id: a, prompt: b}\n- {id: c\n", 3, "from here on it is not"),
        ("- {id: a, prompt: b}\n- 5\n", 2, "a mapping such as"),
        ("- {id: a, id: b, prompt: c}", 1, "'id' twice"),
        ("- {id: a, prompt: b, 5: c}", 1, "keys to be text, but got 5"),
        ("- {id: a, prompt: b}\n- {id: b, prompt: c, [a]: d}", 2, "keys to be text"),
        ("- &x {id: a, prompt: b}\n- *x\n", 1, "an alias"),
        ("- {id: a, prompt: &p b}\n- {id: b, prompt: *p}\n", 2, "an alias"),
        ("- !!python/object/apply:os.system [touch x]\n", 1, "the tag"),
        ("- {id: a, prompt: !secret b}\n", 1, "the tag '!secret'"),
        ("- \x07", 1, "special characters are not allowed"),
        ("[" * 900, 1, "hundreds of levels deep"),
    ],
)
def test_yaml_that_is_no_manifest(text: str, line: int, message: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, text, "m.yaml")
    assert found.line == line and message in found.message


def test_aliases_of_aliases_take_no_time(tmp_path: Path) -> None:
    layers = [f"  l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, 40)]
    (found,) = problems(tmp_path, "- id: a\n  prompt: b\n  l0: &l0 [x]\n" + "".join(layers), "m.yaml")
    assert "an alias" in found.message


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.yaml"])
def test_other_encodings_are_named(name: str, tmp_path: Path) -> None:
    found = problems(tmp_path, "- id: a\n".encode("utf-16"), name)
    assert found[0].line == 1 and "Expected UTF-8, but got the byte 0xff" in found[0].message


@pytest.mark.parametrize("name", ["m.json", "m.txt", "m", "m.jsonl.gz"])
def test_other_kinds_of_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(ZelligeError, match=r"ends in \.jsonl, \.ndjson, \.csv"):
        read(tmp_path, "", name)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZelligeError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "absent.jsonl")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ZelligeError, match="cannot be read: Is a directory"):
        read_manifest(tmp_path / "folder.csv")
    monkeypatch.setattr("ui.manifest.MAX_BYTES", 10)
    with pytest.raises(ZelligeError, match="at most 10 bytes"):
        read(tmp_path, '{"id": "a", "prompt": "oak"}')


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.yaml"])
def test_noise_is_refused_in_words(name: str, tmp_path: Path) -> None:
    """Random bytes, and a good manifest with random bytes changed: rows or a `ZelligeError`, nothing else."""
    chance = random.Random(0)
    good = {
        "m.jsonl": "".join(manifest_line(row) + "\n" for row in ROWS),
        "m.csv": 'id,prompt,size,lock.height\nr1,oak,8x8,0.5\nr2,"el\nm",9x9,\n',
        "m.yaml": "- {id: r1, prompt: oak, lock: {height: 0.5}}\n- id: r2\n  prompt: 'elm'\n  size: 9x9\n",
    }[name].encode()
    signs = b'"{}[]:,-#&*!|>%@`\\\n\r\t\x00\xff\xc3 019.eE~<'
    for turn in range(400):
        if turn % 4 == 0:
            data = chance.randbytes(chance.randrange(60))
        else:
            data = bytearray(good)
            for _ in range(chance.randrange(1, 6)):
                place = chance.randrange(len(data))
                data[place : place + chance.randrange(3)] = bytes([chance.choice(signs)])
        try:
            rows = read(tmp_path, bytes(data), name)
        except ManifestError as error:
            assert all(problem.line >= 1 and problem.message.startswith("Expected ") for problem in error.problems)
        else:
            assert rows and len({row.id.lower() for row in rows}) == len(rows)
