"""pydlx: a deep-learning engine with PyTorch's API. ``import pydlx as torch`` runs the PyTorch code you know."""

from . import _load  # isort: skip  (loads the extension)
from . import _C
from ._C import *  # noqa: F403
from ._C import Size, Tensor, get_num_threads, set_num_threads
from ._namespace import *  # noqa: F403

from . import _tensor_str  # isort: skip
from ._tensor_str import set_printoptions
from .autograd import enable_grad, inference_mode, is_grad_enabled, is_inference_mode_enabled, no_grad, set_grad_enabled
from .random import fork_rng, get_rng_state, initial_seed, manual_seed, seed, set_rng_state
from .version import __version__

_C._set_repr(_tensor_str.tensor_repr)

from . import autograd, backends, cuda, functional, random, special  # isort: skip
from ._composed import *  # isort: skip  # noqa: F403
from ._legacy import *  # isort: skip  # noqa: F403
from .backends import are_deterministic_algorithms_enabled, use_deterministic_algorithms  # isort: skip
from .functional import *  # isort: skip  # noqa: F403
from . import amp, io, nn, optim, testing, utils  # isort: skip
from .amp.autocast_mode import (
    autocast,
    get_autocast_dtype,
    is_autocast_enabled,
    set_autocast_dtype,
    set_autocast_enabled,
)  # isort: skip

from .nn.functional import cosine_similarity, pairwise_distance  # isort: skip
from . import _tensor  # isort: skip  (installs the Python-side methods of Tensor)
from .io import load, load_file, safe_open, save, save_file  # isort: skip
