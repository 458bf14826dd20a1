"""Which rows of a batch one of several processes makes: every N-th, by their order in the manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from asd.errors import ZelligeError

MAX_COUNT = 9999
"""Result files have four digits."""


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1. The parts of a manifest are disjoint and together the whole."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count <= MAX_COUNT:
            raise ZelligeError(f"Expected a shard I/N with 1 <= I <= N <= {MAX_COUNT}, but got {self}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def takes(self, place: int) -> bool:
        """Whether the row at `place`, from 0, belongs to this part: whatever other rows do, it stays there.

        >>> [place for place in range(7) if Shard(2, 3).takes(place)]
        [1, 4]
        """
        return place % self.count == self.index - 1


WHOLE = Shard()
"""All rows."""


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """The shard that `text` says: "2/8", or "auto" for the one that the launcher's variables say.

    A SLURM array splits the work, and so do the processes of torchrun, `accelerate launch` (RANK, WORLD_SIZE) or srun
    (SLURM_PROCID, SLURM_NTASKS) inside each of its tasks. Raises ZelligeError where `environment` has none of them.

    >>> parse_shard("auto", {"RANK": "1", "WORLD_SIZE": "4", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"})
    Shard(index=10, count=12)
    """
    if text != "auto":
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None:
            raise ZelligeError(f"Expected --shard I/N, such as 2/8, or auto, but got {text[:80]!r}")
        return Shard(int(match[1]), int(match[2]))
    array, tasks = _array(environment), _tasks(environment)
    if array is None and tasks is None:
        raise ZelligeError(
            "Expected SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, RANK and WORLD_SIZE, or SLURM_PROCID and "
            "SLURM_NTASKS for --shard auto, but got none of them"
        )
    outer, inner = array or WHOLE, tasks or WHOLE
    return Shard((outer.index - 1) * inner.count + inner.index, outer.count * inner.count)


def local_rank(environment: Mapping[str, str]) -> int | None:
    """The number of this process on its host, from 0, as torchrun, accelerate and SLURM say it; None without them."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if name in environment:
            return _whole(environment, name)
    return None


def _array(environment: Mapping[str, str]) -> Shard | None:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    task, count = _whole(environment, "SLURM_ARRAY_TASK_ID"), _whole(environment, "SLURM_ARRAY_TASK_COUNT")
    first = _whole(environment, "SLURM_ARRAY_TASK_MIN", 0)
    step = _whole(environment, "SLURM_ARRAY_TASK_STEP", 1) or 1
    place, rest = divmod(task - first, step)
    last = _whole(environment, "SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
    if rest or last != first + (count - 1) * step or not 0 <= place < count:
        # the numbers of a list such as 1,4,9 do not tell a task its place in it
        raise ZelligeError(f"Expected a SLURM array without gaps, such as --array=0-7, but got task {task} "
                           f"of {count} from {first} to {last}; give --shard I/N")  # fmt: skip
    return Shard(place + 1, count)


def _tasks(environment: Mapping[str, str]) -> Shard | None:
    # a launcher inside an srun step counts the processes that SLURM's own variables do not know of
    for rank, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in environment and count in environment:
            return Shard(_whole(environment, rank) + 1, _whole(environment, count))
    return None


def _whole(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ZelligeError(f"Expected {name} to be a whole number, but got {text[:80]!r}")
    return int(text)
