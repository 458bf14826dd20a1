"""Patching one instance of a module for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def replaced(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Set an instance attribute that shadows a method, and put back what was there."""
    had, before = name in module.__dict__, module.__dict__.get(name)
    module.__dict__[name] = function
    try:
        yield
    finally:
        if had:
            module.__dict__[name] = before
        else:
            module.__dict__.pop(name, None)
