"""Rows of a batch on Ray Data: a pool of actors, one per GPU or per few CPU cores; those that die are started again."""

from __future__ import annotations

import json
import os
import pickle
import socket
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from asd.errors import ZelligeError
from ui import jobs
from ui.batch import Engine, Plan, Reporter
from ui.fingerprint import digest, find_weights, made_of
from ui.models import Models
from ui.presence import leftovers, present
from ui.ray_cluster import Cluster, connected, count_workers, find_device, import_ray
from ui.results import MANIFEST_FILE, Record
from ui.row import Task, failed, make_row, whole_record

MAX_BLOCKS = 10_000
"""Rows are handed out one by one; of longer batches a few at a time."""
DEATHS = 10
"""How often the ledger may lose its machine."""
CLEARING = 5.0
"""Seconds that killed workers are given to be gone, before what they left is cleared."""


@contextmanager
def ray_engine(
    address: str | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    cores: int = 1,
    verbose: bool = False,
) -> Iterator[tuple[Engine, Cluster]]:
    """The engine for `run_batch` that makes rows on a Ray cluster, which is left, or ended, with the block.

    All machines must see the folder where the command was started and that of the batch under the same path, and have
    the same zellige; what differs is an error before a row is made. A row is made again where its worker died, with
    as many retries as for a failure.

    Args:
        address: of a cluster; None starts one of this machine.
        device: "auto" (GPUs if the cluster has any), "cpu" or "cuda".
        workers: how many actors; None for as many as fit.
        cores: CPU cores of an actor, which computes with as many threads. Pixels depend on it by rounding.
        verbose: let Ray say what it does.

    Raises:
        ZelligeError: no Ray, no cluster, a token that is not the cluster's, no GPU.
    """
    plans: list[Plan] = []
    with connected(address, verbose=verbose) as cluster:
        found = find_device(device, cluster.nodes)

        def make(plan: Plan, retries: int, report: Reporter) -> Generator[tuple[Task, Record, bool]]:
            plans.append(plan)
            if plan.todo:
                memory = max(jobs.memory_needed(task.row.request) for task in plan.todo)
                number = workers or count_workers(cluster.nodes, found, cores, memory)
                yield from _make(plan, retries, report, found, min(number, len(plan.todo)), cores, memory)

        try:
            yield make, cluster
        finally:
            plans = [plan for plan in plans if plan.todo]
    for plan in plans:
        clear(plan)


def clear(plan: Plan, seconds: float = CLEARING) -> None:
    """Remove what killed workers left, as soon as nobody is at work in the folder; at the latest the next run does."""
    ids, until = {row.id for row in plan.rows}, time.monotonic() + seconds
    while plan.out.is_dir() and leftovers(plan.out, ids) and time.monotonic() < until:
        with present(plan.out, ids):
            pass
        time.sleep(0.1)


def _make(
    plan: Plan, retries: int, report: Reporter, device: str, workers: int, cores: int, memory: int
) -> Generator[tuple[Task, Record, bool]]:
    ray = import_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    ledger = ray.remote(num_cpus=0)(Ledger).options(max_restarts=DEATHS, max_task_retries=DEATHS).remote()
    try:
        ray.get(ledger.begin.remote(-1))
    except ray.exceptions.RayError as error:  # Ray would try for ever to start workers that cannot start
        raise ZelligeError("Expected zellige to be installed on every machine of the cluster, "
                           "but a worker cannot import it (-v shows what Ray says)") from error  # fmt: skip
    items = [{"place": place, "task": pickle.dumps(task)} for place, task in enumerate(plan.todo)]
    rows = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS)).map(
        RowWorker,
        fn_constructor_kwargs={
            "ledger": ledger,
            "start": os.getcwd(),
            "out": str(plan.out.absolute()),
            "manifest": digest(plan.out / MANIFEST_FILE),
            "device": device,
            "cores": cores,
            "retries": retries,
        },
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=cores,
        num_gpus=1 if device == "cuda" else 0,
        memory=memory,
    )
    try:
        for made in rows.iter_rows():
            if made["fault"]:
                raise ZelligeError(made["fault"])
            task = plan.todo[made["place"]]
            report.start(task)
            yield task, Record.from_dict(json.loads(made["record"])), bool(made["here"])
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ZelligeError(f"Expected Ray to make the rows, but: {reason}") from error


class Ledger:
    """How often each row was begun: an actor of its own, which outlives workers."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, place: int) -> int:
        """The number of this beginning, from 1."""
        self.begun[place] += 1
        return self.begun[place]


class RowWorker:
    """An actor. Nothing is loaded before its first row, so that a death while loading counts for that row."""

    def __init__(
        self, ledger: Any, start: str, out: str, manifest: str, device: str, cores: int, retries: int
    ) -> None:
        self.ledger, self.start, self.out, self.manifest = ledger, Path(start), Path(out), manifest
        self.device, self.cores, self.retries = device, cores, retries
        self.models: Models | None = None
        self.here = ExitStack()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """One row, as Ray Data hands it over: `place` and `task`; then `place`, `record` and `here` of `make_row`.

        `fault` says, if anything, why no row can be made on this machine.
        """
        begun = import_ray().get(self.ledger.begin.remote(row["place"]))
        task: Task = pickle.loads(row["task"])
        try:
            if self.models is None:
                self.models = self._settle()
            record, here = self._make(task, begun, self.models)
        except ZelligeError as error:
            return {"place": row["place"], "record": "", "here": False, "fault": str(error)}
        return {"place": row["place"], "record": json.dumps(record.to_dict()), "here": here, "fault": ""}

    def _settle(self) -> Models:
        """Go where the command was started, check that it is the same place, and say that somebody is at work there."""
        import torch

        host = socket.gethostname()
        try:
            os.chdir(self.start)
        except OSError as error:
            raise ZelligeError(f"Expected every machine to have the folder {self.start}, where the command was "
                               f"started, but {host} does not: {error.strerror}") from error  # fmt: skip
        try:
            same = digest(self.out / MANIFEST_FILE) == self.manifest
        except OSError:
            same = False
        if not same:
            raise ZelligeError(f"Expected {self.out} to be one folder that all machines share, but {host} has another")
        self.here.enter_context(present(self.out, set()))
        torch.set_num_threads(self.cores)
        return Models(lambda name: jobs._load(name, self.device))

    def _make(self, task: Task, begun: int, models: Models) -> tuple[Record, bool]:
        found = whole_record(task)
        if found is None and begun > self.retries + 1:
            times = "once" if begun == 2 else f"{begun - 1} times"
            return failed(task, f"Expected a worker to live until the row is made, but it died {times}",
                          attempt=begun - 1), True  # fmt: skip
        if found is not None:
            return found, False
        weights = find_weights(task.row.request.model)
        try:
            parts = made_of(task.row.request, weights)
        except ZelligeError as error:  # an image of this row
            return failed(task, str(error), attempt=begun), True
        changed = [key for key, value in task.parts.items() if parts.get(key) != value]
        if {"program", "weights"} & {*changed}:
            raise ZelligeError(f"Expected the same {' and '.join(changed)} on every machine, "
                               f"but {socket.gethostname()} has another")  # fmt: skip
        if changed:
            told = f"Expected the {' and '.join(changed)} to stay as it was, but it is another by now"
            return failed(task, told, attempt=begun), True
        left = self.retries + 1 - begun
        return make_row(task, lambda: models(weights.source), retries=left, attempt=begun)
