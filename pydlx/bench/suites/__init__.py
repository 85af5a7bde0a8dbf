"""One module per family, each with a function ``rows()`` that returns its rows.

Shapes come from LeNet, AlexNet, VGG-16, ResNet-50, MobileNet, U-Net, GPT-2 small, BERT base, ViT-B and LSTM language
models; small, odd and prime sizes stand beside them because that is where fast paths end.
"""

# The order in which families run and are reported; a new module may be left out and comes last.
ORDER = (
    "gemm",
    "conv",
    "attention",
    "rnn",
    "norm",
    "loss",
    "pointwise",
    "reduce",
    "index",
    "shape",
    "sort",
    "pool",
    "optim",
    "steps",
    "overhead",
)

# Families that run only when they are named.
ON_REQUEST = ("breadth", "integers")
