"""`Models`: the pipeline of the last request, kept for the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ui.jobs import Pipeline


class Models:
    """Called with a model's name (`Request.model`), the pipeline; each thread has its own, one at a time."""

    def __init__(self, load: Callable[[str | None], Pipeline]) -> None:
        self.load = load
        self._kept = threading.local()

    def __call__(self, name: str | None) -> Pipeline:
        kept: tuple[str | None, Pipeline] | None = getattr(self._kept, "pair", None)
        if kept is None or kept[0] != name:
            kept = None
            self.clear()  # frees the memory first
            kept = self._kept.pair = name, self.load(name)
        return kept[1]

    def clear(self) -> None:
        """Give the memory of this thread's pipeline back."""
        self._kept.pair = None
