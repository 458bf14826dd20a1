"""The one progress bar of the commands."""

from __future__ import annotations

import argparse
import sys
from typing import Any


class Bar:
    """Progress on stderr with the time left; nothing where nobody looks. `form` is tqdm's bar_format."""

    def __init__(self, options: argparse.Namespace, unit: str, form: str | None = None) -> None:
        self.shown = not options.quiet and (options.verbose or sys.stderr.isatty())
        self.unit = unit
        self.form = form
        self.bar: Any = None

    def __enter__(self) -> Bar:
        if self.shown:
            from tqdm import tqdm

            # the time left by the mean so far: steps come in bursts, between results that are being written
            self.bar = tqdm(
                total=0, unit=self.unit, desc="loading", bar_format=self.form, smoothing=0, file=sys.stderr
            )  # fmt: skip
        return self

    def update(self, done: float, total: float, label: str = "zellige") -> None:
        """Show that `done` of `total` units are done."""
        if self.bar is None:
            return
        if not self.bar.total:
            # the clock starts here, so that the time left does not count the loading as steps
            self.bar.reset(total=total)
        if self.bar.desc != f"{label}: ":
            self.bar.set_description(label, refresh=False)
        self.bar.update(done - self.bar.n)

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
