"""Weights that are made from other weights when they are written, and memory that is given back."""

import mmap
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir


def let_pages_go(tensor: ir.TensorProtocol) -> None:
    """Give the pages of a memory-mapped tensor back: they are read-only, so they come from the file when needed."""
    if isinstance(tensor, ir.ExternalTensor) and tensor.raw is not None and hasattr(mmap, "MADV_DONTNEED"):
        tensor.raw.madvise(mmap.MADV_DONTNEED)


def static_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return a tensor's sizes as numbers, which those of a tensor that holds data always are."""
    return tuple(size for size in tensor.shape if isinstance(size, int))


def concatenated(parts: Sequence[ir.TensorProtocol], axis: int) -> ir.LazyTensor:
    """Return the concatenation of tensors of one dtype, computed when it is read and never kept."""
    dtype = parts[0].dtype
    shape = list(static_shape(parts[0]))
    shape[axis] = sum(static_shape(part)[axis] for part in parts)

    def compute() -> ir.TensorProtocol:
        array = np.concatenate([part.numpy() for part in parts], axis)
        for part in parts:
            let_pages_go(part)
        return ir.tensor(array, dtype=dtype)

    return ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(shape))
