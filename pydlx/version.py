"""The version, as recorded in pyproject.toml."""

from . import _C

__version__: str = _C.build_info()["version"]
