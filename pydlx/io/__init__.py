"""Files: safetensors (``save_file``, ``load_file``, ``safe_open``) and nested checkpoints (``save``, ``load``)."""

from . import safetensors
from .safetensors import load_file, safe_open, save_file
from .serialization import load, save

__all__ = ["load", "load_file", "safe_open", "safetensors", "save", "save_file"]
