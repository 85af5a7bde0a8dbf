"""Functions on tensors: everything the modules of ``nn`` compute, without their parameters."""

from ._activation import *  # noqa: F403
from ._attention import *  # noqa: F403
from ._bilinear import *  # noqa: F403
from ._ctc import *  # noqa: F403
from ._distance import *  # noqa: F403
from ._grid import *  # noqa: F403
from ._loss import *  # noqa: F403
from ._native import *  # noqa: F403
from ._norm import *  # noqa: F403
from ._pooling import *  # noqa: F403
from ._resize import *  # noqa: F403
from ._sparse import *  # noqa: F403
