"""One module per command, named like it: HELP, DESCRIPTION, EPILOG, `add_arguments(parser)` and `run(options)`.

`run` returns the exit code and raises `asd.errors.ZelligeError` for bad input. A new command is a module and its name
in `NAMES`; the modules keep their imports light, since all of them are loaded for `--help`.
"""

from __future__ import annotations

NAMES = ("material", "image", "upscale", "maps", "batch", "check", "export", "score", "ui", "serve", "sign")
