"""Sessions on tensors that lie on the device: in place, in the order of the caller's stream, without waiting."""

import gc
import sys
import weakref

import numpy as np
import pytest

from graphwright.errors import RequestError
from graphwright.runtime.tensorrt.session import TensorRTSession
from tests.runtime.tensorrt import networks
from tests.runtime.tensorrt.cuda_double import CudaDouble
from tests.runtime.tensorrt.networks import expected, request
from tests.runtime.tensorrt.runtime_double import TensorRTDouble
from tests.runtime.tensorrt.torch_double import Tensor, TorchDouble


@pytest.fixture
def torch(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> TorchDouble:
    made = TorchDouble(cuda)
    monkeypatch.setitem(sys.modules, "torch", made)
    return made


def on_device(torch: TorchDouble, given: dict[str, np.ndarray], **options: bool) -> dict[str, Tensor]:
    return {name: torch.on_device(array, **options) for name, array in given.items()}


def check(session: TensorRTSession, torch: TorchDouble, batch: int = 2, seq: int = 3, **options: bool) -> None:
    given = request(batch, seq)
    found = session(on_device(torch, given, **options))
    gc.collect()
    for name, array in expected(given).items():
        np.testing.assert_array_equal(found[name].value(), array)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_numbers_are_right_though_the_inputs_come_late_and_are_dropped_early(
    trt: TensorRTDouble, torch: TorchDouble, cuda_graphs: bool
) -> None:
    session = TensorRTSession(trt.plan(networks.sums()), cuda_graphs=cuda_graphs)
    for seq in (3, 3, 3, 5, 3):
        check(session, torch, seq=seq)
    assert session.graphs is None or len(session.graphs) == 1


def test_buffers_grow_only_after_the_run_that_uses_them(trt: TensorRTDouble, torch: TorchDouble) -> None:
    session = TensorRTSession(trt.plan(networks.sums((1, 2, 4), (2, 12, 16))), cuda_graphs=True)
    small, large = (session(on_device(torch, request(seq=seq))) for seq in (3, 13))
    np.testing.assert_array_equal(large["y"].value(), expected(request(seq=13))["y"])
    np.testing.assert_array_equal(small["y"].value(), expected(request(seq=3))["y"])


def test_a_call_does_not_wait(trt: TensorRTDouble, torch: TorchDouble, cuda: CudaDouble) -> None:
    session = TensorRTSession(trt.plan(networks.sums()))
    given = on_device(torch, request())
    session(given)
    cuda.calls.clear()
    session(given)
    assert "synchronize" not in cuda.calls and "copy" not in cuda.calls


def test_inputs_and_outputs_lie_where_their_tensors_lie(trt: TensorRTDouble, torch: TorchDouble) -> None:
    session = TensorRTSession(trt.plan(networks.sums()))
    given = on_device(torch, request())
    found = session(given)
    addresses = trt.contexts[0].addresses
    for name, tensor in {**given, **found}.items():
        assert addresses[name] == tensor.data_ptr()


def test_tensors_with_gaps_are_copied_before_the_run(trt: TensorRTDouble, torch: TorchDouble) -> None:
    check(TensorRTSession(trt.plan(networks.sums())), torch, has_gaps=True)


def test_arrays_beside_tensors_go_to_the_device(trt: TensorRTDouble, torch: TorchDouble) -> None:
    # Kept, for a session that is dropped waits for its work.
    session, given = TensorRTSession(trt.plan(networks.sums())), request()
    found = session({"x": torch.on_device(given["x"]), "ids": given["ids"]})
    given_ids = given["ids"].copy()
    given["ids"].fill(-5)
    np.testing.assert_array_equal(found["y"].value(), expected({"x": given["x"], "ids": given_ids})["y"])


def test_an_output_of_unknown_size_lies_in_a_tensor_of_its_own(trt: TensorRTDouble, torch: TorchDouble) -> None:
    session = TensorRTSession(trt.plan(networks.positives()))
    for values in ([1, -1, 2], [-1], [1] * 64):
        x = np.array(values, np.float32)
        found = session(x=torch.on_device(x))
        gc.collect()
        np.testing.assert_array_equal(found["found"].value(), np.flatnonzero(x > 0))
        assert str(found["found"].dtype) == "torch.int64"


def test_a_result_that_the_caller_drops_is_gone(trt: TensorRTDouble, torch: TorchDouble) -> None:
    session = TensorRTSession(trt.plan(networks.positives()))
    found = session(x=torch.on_device(np.ones(3, np.float32)))
    results = [weakref.ref(tensor) for tensor in found.values()]
    del found
    gc.collect()
    assert [result() for result in results] == [None, None]


def test_a_call_waits_where_its_shapes_lie_on_the_host(
    trt: TensorRTDouble, torch: TorchDouble, cuda: CudaDouble
) -> None:
    """They must stay until the run is over, and the next call brings its own."""
    session = TensorRTSession(trt.plan(networks.tiled()))
    session(x=torch.on_device(np.ones(3, np.float32)), times=np.array([2], np.int64))
    cuda.calls.clear()
    found = session(x=torch.on_device(np.ones(3, np.float32)), times=np.array([4], np.int64))
    assert "synchronize" in cuda.calls
    np.testing.assert_array_equal(found["y"].value(), np.ones((4, 3), np.float32))


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_cache_is_written_in_place_or_comes_back_written(
    trt: TensorRTDouble, torch: TorchDouble, cuda_graphs: bool
) -> None:
    session = TensorRTSession(trt.plan(networks.cache()), cuda_graphs=cuda_graphs)
    cache = torch.on_device(np.arange(8, dtype=np.float32))
    for value in (9.0, 8.0, 7.0):
        found = session(cache=cache, new=torch.on_device(np.array([value], np.float32)))
        assert (found["present"] is cache) is not cuda_graphs
        np.testing.assert_array_equal(found["present"].value(), [value, 1, 2, 3, 4, 5, 6, 7])


def test_outputs_on_the_host_are_there_when_the_call_returns(trt: TensorRTDouble, torch: TorchDouble) -> None:
    session = TensorRTSession(trt.plan(networks.repeated()))
    found = session(x=torch.on_device(np.ones(3, np.float32)), times=np.array([4], np.int64))
    assert found["shape"].device.type == "cpu"
    np.testing.assert_array_equal(found["shape"].storage.host.view(np.int64), [4, 3])


def test_an_empty_tensor_has_an_address(trt: TensorRTDouble, torch: TorchDouble) -> None:
    network = networks.sums((0, 8, 16))
    found = TensorRTSession(trt.plan(network))(on_device(torch, request(2, 0)))
    assert found["y"].shape == (2, 0, 4) and found["y"].value().size == 0


def test_a_tensor_on_another_device_is_refused(trt: TensorRTDouble, torch: TorchDouble) -> None:
    given = on_device(torch, request())
    given["ids"].device = torch.places["cuda:1"]
    with pytest.raises(RequestError, match="needed one on cuda:0"):
        TensorRTSession(trt.plan(networks.sums()))(given)


def test_after_a_failure_the_session_goes_on(trt: TensorRTDouble, torch: TorchDouble, cuda: CudaDouble) -> None:
    session = TensorRTSession(trt.plan(networks.sums()))
    trt.failing.add("execute_async_v3")
    with pytest.raises(RequestError, match="a layer refuses"):
        session(on_device(torch, request()))
    assert not any(stream.pending for number, stream in cuda.streams.items() if number)
    trt.failing.clear()
    check(session, torch)
