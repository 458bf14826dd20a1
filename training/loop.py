"""What both trainers share: processes, one clock, averaged gradients, an exponential moving average, a log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Loop:
    """A training run bounded by wall time, on one GPU or several of one host (started by torchrun).

    `fraction` runs from 0 to 1 over the time given and is the same on all ranks, so a learning rate from it is too.
    """

    def __init__(self, minutes: float, log: Path | None = None, max_steps: int | None = None) -> None:
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.world > 1 and not dist.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=240))
        self.seconds, self.log, self.max_steps = minutes * 60, log, max_steps
        self.step, self.fraction, self.start = 0, 0.0, time.monotonic()
        self.marks: list[float] = []
        self.recent: dict[str, list[Tensor]] = {}
        self.busy: list[float] = []

    def begin(self) -> None:
        """Start the clock (after loading and compiling what should not count)."""
        self.start = time.monotonic()

    def synchronise(self, model: nn.Module) -> None:
        """Give every rank the first one's parameters and buffers."""
        if self.world > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, 0)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over the ranks in one message that also carries the clock.

        A file `minutes` beside the log, written while training runs, changes how long it is to run.
        """
        if self.step % 50 == 0 and self.log and (changed := self.log.with_name("minutes")).is_file():
            self.seconds = float(changed.read_text()) * 60
        now = min(1.0, self.elapsed / self.seconds)
        if self.max_steps:
            now = max(now, min(1.0, (self.step + 1) / self.max_steps))
        if self.world == 1:
            self.fraction = now
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([*(g.reshape(-1) for g in grads), torch.full((1,), now, device=self.device)])
        dist.all_reduce(flat)
        flat /= self.world
        torch._foreach_copy_(
            grads, [f.view_as(g) for f, g in zip(flat[:-1].split([g.numel() for g in grads]), grads, strict=True)]
        )
        # Reading the clock back waits for the GPU, so only every few steps.
        if self.step % 8 == 0 or self.fraction > 0.98:
            self.fraction = float(flat[-1])

    def rate(self, peak: float, warmup: int, decay_from: float) -> float:
        """Learning rate: linear warm-up in steps, constant, then linear to 2 % of the peak over what time is left."""
        tail = 1.0 if self.fraction < decay_from else 1 - 0.98 * (self.fraction - decay_from) / (1 - decay_from)
        return peak * min(1.0, (self.step + 1) / warmup) * max(0.0, tail)

    def tick(self, every: int, **losses: Tensor) -> None:
        """Count a step; each `every` steps the first rank prints means, steps per second and how busy the GPU is."""
        self.step += 1
        for name, value in losses.items():
            self.recent.setdefault(name, []).append(value.detach())
        self.marks.append(time.monotonic())
        if self.step % every and self.step not in (1, 10, 50):
            return
        means = {k: round(float(torch.stack(v).mean()), 5) for k, v in self.recent.items()}
        self.recent.clear()
        span = self.marks[-1] - self.marks[0]
        speed = (len(self.marks) - 1) / span if span > 0 else 0.0
        self.marks = [time.monotonic()]
        if self.rank:
            return
        row = {"step": self.step, "s": round(self.elapsed, 1), "steps_per_s": round(speed, 2), **means}
        if self.device.type == "cuda":
            row["gpu_busy"] = gpu_busy()
            row["gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        print(json.dumps(row), flush=True)
        if self.log:
            with self.log.open("a") as handle:
                handle.write(json.dumps(row) + "\n")

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was started."""
        return time.monotonic() - self.start

    @property
    def done(self) -> bool:
        return self.fraction >= 1.0


def gpu_busy() -> int:
    """Utilisation of the first GPU in percent, as nvidia-smi samples it; -1 if it can't be read."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        return -1


class Average:
    """Exponential moving average of parameters (decay warms up as (1 + t) / (10 + t), Polyak-style)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.parameters = [p.detach().clone().float() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.count += 1
        weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.parameters, [p.detach() for p in model.parameters()], weight)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has the averages for as long as the block lasts."""
        now = [p.detach().clone() for p in model.parameters()]
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(model.parameters(), now, strict=True):
                    p.copy_(value)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for p, average in zip(model.parameters(), self.parameters, strict=True):
            p.copy_(average)


def say(*words: object) -> None:
    """Progress to stderr, from the first rank only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(*words, file=sys.stderr, flush=True)
