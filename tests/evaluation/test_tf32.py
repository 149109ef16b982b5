import pytest
import torch

from pixelgen.evaluation.tf32 import full_float32


def convolutions():
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_is_on_inside_and_as_before_afterwards(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.raises(ZeroDivisionError), full_float32():  # noqa: PT012
            assert torch.get_float32_matmul_precision() == "highest"
            assert not convolutions()
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == precision
        assert convolutions()
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="since torch 2.9")
def test_takes_the_newer_way_where_it_was_taken_before():
    product = torch.backends.cuda.matmul
    before = product.fp32_precision
    product.fp32_precision = "tf32"
    try:
        with full_float32():
            assert product.fp32_precision == "ieee"
            assert not product.allow_tf32
        assert product.fp32_precision == "tf32"
    finally:
        product.fp32_precision = before
        torch.set_float32_matmul_precision("highest")
