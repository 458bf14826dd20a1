"""What one request of the page may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asd.errors import ZelligeError
from ui.jobs import sized
from ui.request import Request
from ui.web.uploads import MAX_PIXELS, check_image


@dataclass(frozen=True)
class Limits:
    """None is what the machine bears. `zellige serve` sets those of its API."""

    pixels: int | None = None
    """Width times height of an image, made or uploaded."""
    count: int | None = None
    """Samples."""
    steps: int | None = None

    def check(self, request: Request) -> None:
        """Raise ZelligeError for a request beyond the limits."""
        for name, value, most in (("count", request.count, self.count), ("steps", request.steps or 0, self.steps)):
            if most is not None and value > most:
                raise ZelligeError(f"Expected {name} of at most {most} here, but got {value}")
        if self.pixels is None:
            return
        for path in (request.image, request.mask):
            if path is not None:
                self.image(path)
        width, height = sized(request).size
        if width * height > self.pixels:
            raise ZelligeError(f"Expected at most {self.pixels} pixels here, but got {width}x{height}")

    def image(self, path: str | Path) -> Path:
        """`uploads.check_image` within the limit of pixels."""
        return check_image(path, most=MAX_PIXELS if self.pixels is None else self.pixels)
