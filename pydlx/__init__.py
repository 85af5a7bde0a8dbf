from ._C import *  # noqa: F403
from . import _C
