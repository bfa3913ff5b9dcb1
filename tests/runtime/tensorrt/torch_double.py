"""A double of torch as far as a session looks at it: tensors on the double device, and the default stream.

A tensor that is dropped is overwritten on the default stream, which is when torch's allocator may give its memory away.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.runtime.tensorrt.cuda_double import CudaDouble, at


class Dtype:
    def __init__(self, name: str) -> None:
        self.name = name
        self.numpy = np.dtype({"bfloat16": "uint16"}.get(name, name))

    def __str__(self) -> str:
        return f"torch.{self.name}"


class Storage:
    """Memory of a tensor and its views."""

    def __init__(self, torch: "TorchDouble", size: int, place: str) -> None:
        self.cuda, self.place, self.size = torch.double, place, size
        self.host = np.zeros(size, np.uint8)
        self.address = self.host.ctypes.data
        if place == "cuda":
            with self.cuda.current():
                self.address = self.cuda.allocate(max(size, 1)) if size else 0

    def __del__(self) -> None:
        if self.place == "cuda" and self.address:
            memory = self.cuda.bytes_at(self.address, self.size)
            with self.cuda.current():
                self.cuda.put(0, "reuse", lambda: memory.fill(0xDD))


class Tensor:
    """With ``hidden`` it has gaps: what a read from its address on would give is not what is in it."""

    def __init__(
        self, torch: "TorchDouble", storage: Storage, shape: Any, dtype: Dtype, hidden: "Tensor | None" = None
    ) -> None:
        self.torch, self.storage, self.shape, self.dtype, self.hidden = torch, storage, tuple(shape), dtype, hidden
        self.device = torch.places[storage.place]

    def data_ptr(self) -> int:
        return self.storage.address

    def detach(self) -> "Tensor":
        return self

    def contiguous(self) -> "Tensor":
        if self.hidden is None:
            return self
        assert self.hidden is not None
        copy = self.torch.empty(self.shape, dtype=self.dtype, device=self.device)
        with self.torch.double.current():
            self.torch.double.copy(copy.data_ptr(), self.hidden.data_ptr(), self.storage.size, 0)
        return copy

    def __getitem__(self, part: slice) -> "Tensor":
        return Tensor(self.torch, self.storage, (part.stop,), self.dtype)

    def view(self, dtype: Dtype) -> "Tensor":
        return Tensor(self.torch, self.storage, (self.shape[0] // dtype.numpy.itemsize,), dtype)

    def reshape(self, shape: Any) -> "Tensor":
        return Tensor(self.torch, self.storage, shape, self.dtype)

    def cpu(self) -> np.ndarray:
        return self.value()

    def value(self) -> np.ndarray:
        """What is in it once the default stream has done its work."""
        with self.torch.double.current():
            self.torch.double.synchronize(0)
        count = int(np.prod(self.shape))
        data = at(self.storage.address, count * self.dtype.numpy.itemsize) if count else np.zeros(0, np.uint8)
        return data.view(self.dtype.numpy).reshape(self.shape).copy()


class TorchDouble(ModuleType):
    def __init__(self, double: CudaDouble) -> None:
        super().__init__("torch")
        self.double = double
        self.Tensor = Tensor
        self.places = {
            "cuda": SimpleNamespace(type="cuda", index=0),
            "cpu": SimpleNamespace(type="cpu", index=None),
            "cuda:1": SimpleNamespace(type="cuda", index=1),
        }
        for name in ("float32", "float16", "bfloat16", "int64", "int32", "uint8"):
            setattr(self, name, Dtype(name))
        self.cuda = SimpleNamespace(current_stream=lambda device: SimpleNamespace(cuda_stream=0))

    def empty(self, shape: Any, *, dtype: Dtype, device: Any) -> Tensor:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = int(np.prod(shape)) * dtype.numpy.itemsize
        place = "cpu" if device == "cpu" else device.type
        return Tensor(self, Storage(self, size, place), shape, dtype)

    def on_device(self, array: np.ndarray, *, has_gaps: bool = False) -> Tensor:
        """A tensor whose values come only when the default stream gets to them."""
        dtype = getattr(self, array.dtype.name)
        tensor = Tensor(self, Storage(self, array.nbytes, "cuda"), array.shape, dtype)
        kept = np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()
        if array.nbytes:
            memory = self.double.bytes_at(tensor.data_ptr(), array.nbytes)
            with self.double.current():
                self.double.put(0, "kernel", lambda: memory.__setitem__(slice(None), kept))
        if has_gaps:
            return Tensor(self, Storage(self, array.nbytes, "cuda"), array.shape, dtype, tensor)
        return tensor
