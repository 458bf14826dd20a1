from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from training.loop import Average, Loop

RANK_PROGRAM = """
import torch
from torch import nn
from training.loop import Loop
loop = Loop(minutes=60, max_steps=4)
torch.manual_seed(loop.rank)
model = nn.Linear(3, 1)
loop.synchronise(model)
before = model.weight.detach().clone()
loss = (model.weight * (loop.rank + 1)).sum()
loss.backward()
loop.average(model.parameters())
print(loop.rank, before.sum().item(), model.weight.grad.tolist(), round(loop.fraction, 6), flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("alone")
def test_rate_warms_up_stays_and_decays() -> None:
    loop = Loop(minutes=1)
    assert loop.rate(1.0, 10, 0.5) == pytest.approx(0.1)
    loop.step = 4
    assert loop.rate(1.0, 10, 0.5) == pytest.approx(0.5)
    loop.step, loop.fraction = 100, 0.49
    assert loop.rate(2.0, 10, 0.5) == 2.0
    loop.fraction = 0.75
    assert loop.rate(2.0, 10, 0.5) == pytest.approx(2 * (1 - 0.98 / 2))
    loop.fraction = 1.0
    assert loop.rate(2.0, 10, 0.5) == pytest.approx(0.04)


@pytest.mark.usefixtures("alone")
def test_steps_end_the_run_and_are_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop(minutes=60, log=tmp_path / "log.jsonl", max_steps=4)
    losses = [torch.tensor(float(v)) for v in range(4)]
    while not loop.done:
        loop.average([])
        loop.tick(2, loss=losses[loop.step])
    assert loop.step == 4
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.0), (2, 1.0), (4, 2.5)]
    assert capsys.readouterr().out.splitlines() == [json.dumps(row) for row in rows]


@pytest.mark.usefixtures("alone")
def test_a_file_changes_how_long_it_runs(tmp_path: Path) -> None:
    (tmp_path / "minutes").write_text("0")
    loop = Loop(minutes=60, log=tmp_path / "log.jsonl")
    (tmp_path / "minutes").write_text("1e-9")
    loop.average([])
    assert loop.done


def test_average_is_the_recursion() -> None:
    model = nn.Linear(2, 1)
    average = Average(model, 0.5)
    expected = model.weight.detach().clone()
    for count in range(1, 8):
        with torch.no_grad():
            model.weight += count
        average.update(model)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    average.copy_to(model)
    torch.testing.assert_close(model.weight.detach(), expected)


def test_two_processes_share_weights_gradients_and_the_clock() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_PROGRAM],
            env=os.environ | shared | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = []
    for child in children:
        out, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
        told.append(out.split(maxsplit=1))
    assert [rank for rank, _ in told] == ["0", "1"]
    assert told[0][1] == told[1][1]
    assert told[0][1].endswith("[[1.5, 1.5, 1.5]] 0.25\n")
