"""Loading without chatter: the libraries' bars and warnings are not for a user who asked for a material."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Inside it diffusers and transformers show no bars and log errors alone; both are put back on leaving.

    Call `textile_metric.torchvision_guard.guard_torchvision` before: it imports both.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    logs = (diffusers_logging, transformers_logging)
    levels = [log.get_verbosity() for log in logs]
    # transformers' switch is the hub's as well, and turning that on warns where the environment turned it off.
    bars = [diffusers_logging] if are_progress_bars_disabled() else list(logs)
    for log in logs:
        log.set_verbosity_error()
    for log in bars:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
        for log in bars:
            log.enable_progress_bar()
