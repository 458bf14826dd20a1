"""The Hugging Face package that shares the import name `kernels`: found, and read on demand. Standard library only."""

from __future__ import annotations

from collections.abc import MutableSequence
from pathlib import Path
from typing import Any

_scope: dict[str, Any] | None = None


def _hidden_init() -> Path | None:
    """The other package's `__init__.py`, or None where it is not installed or is ours."""
    try:
        from importlib.metadata import distribution

        init = Path(str(distribution("kernels").locate_file("kernels/__init__.py")))
        return init if init.is_file() and not init.samefile(Path(__file__).with_name("__init__.py")) else None
    except Exception:  # broken metadata of a package that is not ours must not stop this import
        return None


_init = _hidden_init()
FOLDERS = [] if _init is None else [str(_init.parent)]
"""Where the other package's submodules lie: appended to our `__path__`."""


def look_up(name: str, package: str, path: MutableSequence[str]) -> Any:
    """`name` in the other package, whose `__init__` is executed once, as `package` with `path`.

    Raises:
        AttributeError: it has no such name, or can't be imported.
    """
    global _scope
    missing = f"module {package!r} has no attribute {name!r}"
    if _init is None or (name.startswith("__") and name.endswith("__")):
        raise AttributeError(missing)
    if _scope is None:
        scope = {"__name__": package, "__path__": path, "__file__": str(_init), "__package__": package}
        try:
            exec(compile(_init.read_bytes(), str(_init), "exec"), scope)
        except Exception as error:
            raise AttributeError(f"{missing}: {_init} failed: {error}") from error
        _scope = scope
    if name not in _scope:
        raise AttributeError(missing)
    return _scope[name]
