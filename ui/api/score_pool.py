"""`ScorePool`: images to scores in processes of their own, where a hostile file can break nothing else."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, suppress
from pathlib import PurePosixPath
from typing import Any

from ui.api.errors import too_many

FORMATS = ("PNG", "JPEG", "WEBP")
"""The decoders an upload may choose: Pillow knows over forty."""


class ScorePool:
    """`score` runs on `workers` processes with one thread each; `place` lets `waiting` requests in at a time.

    A process that takes longer than `seconds` for an image, or dies of it, is replaced; the image has no score then.
    """

    def __init__(self, workers: int, *, waiting: int, max_pixels: int, seconds: float) -> None:
        self.workers, self.waiting, self.max_pixels, self.seconds = workers, waiting, max_pixels, seconds
        self.inside = 0
        self._turn = asyncio.Semaphore(workers)
        self._pool: ProcessPoolExecutor | None = None

    async def start(self) -> None:
        """Start the processes, which takes seconds: they load PyTorch."""
        loop = asyncio.get_running_loop()
        pool = self._executor()
        await asyncio.gather(*(loop.run_in_executor(pool, _ready) for _ in range(self.workers)))

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Be one of the requests in work; raises ApiError 429 where there are enough."""
        if self.inside >= self.waiting:
            raise too_many(f"Expected a free place, but {self.inside} requests for scores are in work", 1.0)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def score(self, data: bytes) -> dict[str, Any]:
        """{"score": {...}} of an image file, or {"error": a sentence}. Never raises for what is in the file."""
        async with self._turn:
            for _ in range(2):  # a process that another image brought down takes this one along
                pool = self._executor()
                try:
                    work = asyncio.get_running_loop().run_in_executor(pool, score_bytes, data, self.max_pixels)
                    return await asyncio.wait_for(work, self.seconds)
                except TimeoutError:
                    self._kill(pool)
                    return {"error": f"Expected an image that is scored within {self.seconds:g} seconds"}
                except BrokenProcessPool:
                    self._kill(pool)
            return {"error": "Expected an image that can be decoded, but the process that tried ended"}

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._kill(self._pool)

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # spawned: a copy of a process with threads can hang
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_prepare)
        return self._pool

    def _kill(self, pool: ProcessPoolExecutor) -> None:
        if self._pool is pool:
            self._pool = None
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            with suppress(OSError, ValueError):
                process.kill()
        for process in processes:
            with suppress(OSError, ValueError, AssertionError):
                process.join(5)


def score_bytes(data: bytes, max_pixels: int) -> dict[str, Any]:
    """Decode and score one image file; {"score": ...} or {"error": ...}."""
    from PIL import Image, UnidentifiedImageError

    from textile_metric.images import from_pil
    from ui.scoring import BadFile, score_image

    asked = f"Expected an image ({', '.join(FORMATS)})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is `max_pixels`
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    return {"error": f"Expected at most {max_pixels} pixels here, but got {image.width}x{image.height}"}
                pixels = from_pil(image)
    except UnidentifiedImageError:
        return {"error": f"{asked}, but it is none"}
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        told = str(error).rstrip(".") if isinstance(error, ValueError) and str(error).startswith("Expected") else None
        return {"error": told or f"{asked} that is whole, but it is damaged ({type(error).__name__})"}
    found = score_image(pixels)
    if isinstance(found, BadFile):
        return {"error": found.reason}
    return {"score": {key: value for key, value in found.to_dict().items() if key != "path"}}


def shown_name(name: str | None) -> str:
    """A client's file name for answers: no folders, no control characters, at most 200 characters.

    >>> shown_name("../../etc/passwd"), shown_name("a\\\\b\\x00c.png"), shown_name(None)
    ('passwd', 'bc.png', 'unnamed')
    """
    last = PurePosixPath((name or "").replace("\\", "/")).name
    plain = "".join(c for c in last if c.isprintable()).encode("utf-8", "ignore").decode()
    return plain[:200] or "unnamed"


def _prepare() -> None:
    """In a new process: one thread, no Ctrl-C, after the server's own work, and not beyond its end."""
    threading.Thread(target=_end_with_server, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    with suppress(OSError, AttributeError):
        os.nice(1)
    import torch

    torch.set_num_threads(1)
    from textile_metric.weights import network

    network(torch.device("cpu"))


def _end_with_server() -> None:
    """A server that is killed tells its processes nothing."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        os._exit(1)


def _ready() -> bool:
    return True
