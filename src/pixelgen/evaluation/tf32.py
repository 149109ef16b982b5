"""How a GPU rounds in float32, which numbers that are compared should not depend on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32: by default GPUs round the factors of convolutions to
    10 bits (TF32), and with `torch.set_float32_matmul_precision` also those of matrix products. Autocast is off.
    """
    convolutions, product = _convolutions(), torch.backends.cuda.matmul
    before = getattr(*convolutions)
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the newer attribute, and the two must not be mixed
        precision = None
    newer = None if precision is not None else product.fp32_precision
    try:
        setattr(*convolutions, "ieee" if isinstance(before, str) else False)
        _set_products(precision and "highest", newer and "ieee")
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        setattr(*convolutions, before)
        _set_products(precision, newer)


def _convolutions() -> tuple[Any, str]:
    """Where torch keeps the precision of convolutions: since 2.9 there is one for each kind of layer."""
    cudnn: Any = torch.backends.cudnn
    return (cudnn.conv, "fp32_precision") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32")


def _set_products(precision: str | None, newer: str | None) -> None:
    if precision is not None:
        torch.set_float32_matmul_precision(precision)
    elif newer is not None:
        torch.backends.cuda.matmul.fp32_precision = newer
