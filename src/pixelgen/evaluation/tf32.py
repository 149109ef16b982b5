"""How a GPU rounds in float32, which numbers that are compared should not depend on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32: by default GPUs round the factors of convolutions to
    10 bits (TF32), and with `torch.set_float32_matmul_precision` also those of matrix products. Autocast is off.
    """
    cudnn: Any = torch.backends.cudnn
    product: Any = torch.backends.cuda.matmul
    # since torch 2.9 there is a precision of convolutions for each kind of layer
    convolutions, name = (cudnn.conv, "fp32_precision") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32")
    before = getattr(convolutions, name)
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the newer attribute, and the two must not be mixed
        precision, newer = "", product.fp32_precision
    try:
        setattr(convolutions, name, "ieee" if isinstance(before, str) else False)
        if precision:
            torch.set_float32_matmul_precision("highest")
        else:
            product.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        setattr(convolutions, name, before)
        if precision:
            torch.set_float32_matmul_precision(precision)
        else:
            product.fp32_precision = newer
