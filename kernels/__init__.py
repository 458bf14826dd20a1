"""Attention that fits the memory there is.

`kernels` is also the import name of a Hugging Face package that transformers and diffusers probe, and import from, as
they start. When that distribution is installed and this folder hides it, its submodules and public names stay reachable
here: the real folder is appended to `__path__`, and a name that this package lacks is looked up in the real `__init__`.
Importing this package uses the standard library alone and never raises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__version__ = "0.0.0"  # outside every version window that transformers accepts for the other package

_foreign: dict[str, Any] | None = None


def _hidden_init() -> Path | None:
    """The other package's `__init__.py`, or None where it is not installed or is this very file."""
    try:
        from importlib.metadata import distribution

        init = Path(str(distribution("kernels").locate_file("kernels/__init__.py")))
        return init if init.is_file() and not init.samefile(__file__) else None
    except Exception:  # broken metadata of a package that is not ours must not stop this import
        return None


_init = _hidden_init()
if _init is not None:
    __path__.append(str(_init.parent))


def __getattr__(name: str) -> Any:
    global _foreign
    if _init is None or (name.startswith("__") and name.endswith("__")):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _foreign is None:
        scope = {"__name__": __name__, "__path__": __path__, "__file__": str(_init), "__package__": __name__}
        try:
            exec(compile(_init.read_bytes(), str(_init), "exec"), scope)
        except Exception as error:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {_init} failed: {error}") from error
        _foreign = scope
    if name not in _foreign:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _foreign[name]
