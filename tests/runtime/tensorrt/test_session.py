"""Sessions on plans, with the double of TensorRT: requests, profiles, memory, what comes back to whom."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from graphwright.errors import MissingDependencyError, ProfileError, RequestError, UsageError
from graphwright.runtime.profile import Profile
from graphwright.runtime.tensorrt.session import TensorRTSession
from tests.runtime.tensorrt import networks
from tests.runtime.tensorrt.cuda_double import CudaDouble
from tests.runtime.tensorrt.networks import expected, request
from tests.runtime.tensorrt.runtime_double import TensorRTDouble


def opened(trt: TensorRTDouble, *bounds: tuple[int, int, int], **options: object) -> TensorRTSession:
    return TensorRTSession(trt.plan(networks.sums(*bounds)), **options)  # type: ignore[arg-type]


def check(session: TensorRTSession, batch: int = 2, seq: int = 3, start: float = 0.0) -> dict[str, np.ndarray]:
    given = request(batch, seq, start)
    found = session(given)
    wanted = expected(given)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    return found


def test_numbers_are_right_as_mapping_and_as_keywords(trt: TensorRTDouble) -> None:
    session, given = opened(trt), request()
    check(session)
    np.testing.assert_array_equal(session(**given)["y"], expected(given)["y"])
    np.testing.assert_array_equal(session({"x": given["x"]}, ids=given["ids"])["y"], expected(given)["y"])


def test_arrays_that_are_not_contiguous_are_copied(trt: TensorRTDouble) -> None:
    given = request(2, 6)
    cut = {"x": given["x"][:, ::2], "ids": given["ids"][:, ::2]}
    np.testing.assert_array_equal(opened(trt)(cut)["total"], expected(cut)["total"])


def test_an_input_given_twice_is_refused(trt: TensorRTDouble) -> None:
    with pytest.raises(RequestError, match="input x given twice"):
        opened(trt)(request(), x=request()["x"])


def test_wrong_requests_are_refused_before_tensorrt_sees_them(trt: TensorRTDouble) -> None:
    session = opened(trt)
    check(session)
    said = list(trt.contexts[0].said)
    for change, text in [
        ({"ids": None}, "also ids int64"),
        ({"mask": np.ones(1)}, "unknown input mask"),
        ({"x": np.zeros((2, 3, 4))}, "found type double; needed float"),
        ({"x": np.zeros((2, 3), np.float32)}, "rank 2"),
        ({"x": np.zeros((2, 3, 5), np.float32)}, "size 5 on axis 2"),
        ({"x": np.zeros((2, 17, 4), np.float32), "ids": np.zeros((2, 17), np.int64)}, "outside every profile"),
        ({"x": [1.0]}, "a list"),
    ]:
        given = {name: value for name, value in {**request(), **change}.items() if value is not None}
        with pytest.raises(RequestError, match=text):
            session(given)
    assert trt.contexts[0].said == said


def test_an_array_on_a_device_without_torch_is_refused(trt: TensorRTDouble) -> None:
    class Cupy:
        dtype, shape, __cuda_array_interface__ = np.dtype(np.float32), (2, 3, 4), {"version": 3}

    session = opened(trt)
    for _ in range(2):
        with pytest.raises(RequestError, match=r"a Cupy on a device.*from_dlpack"):
            session({**request(), "x": Cupy()})
        # An array of the same type and shape is no reason to take it.
        check(session)


def test_of_several_profiles_the_nearest_runs_each_in_a_context_of_its_own(trt: TensorRTDouble) -> None:
    session = opened(trt, (1, 2, 4), (2, 12, 16))
    for seq in (1, 3, 4, 9, 16, 2):
        check(session, seq=seq)
    assert [context.profile for context in trt.contexts] == [0, 1]
    used = [context.said.count("execute_async_v3") for context in trt.contexts]
    assert used == [4, 2]


def test_sizes_between_two_profiles_are_refused(trt: TensorRTDouble) -> None:
    with pytest.raises(RequestError, match="outside every profile"):
        opened(trt, (1, 2, 4), (8, 12, 16))(request(seq=6))


def test_a_profile_narrows_what_is_accepted(trt: TensorRTDouble) -> None:
    session = opened(trt, profile="x=1x1x4:2x4x4:2x8x4,ids=1x1:2x4:2x8")
    check(session, 2, 8)
    with pytest.raises(RequestError, match="outside every profile"):
        session(request(2, 9))


@pytest.mark.parametrize("profile", ["x=1x1x4:2x4x4:2x17x4,ids=1x1:2x4:2x16", "x=2x1x4:2x4x4:5x8x4,ids=1x1:2x4:2x8"])
def test_a_profile_beyond_the_plans_is_refused(trt: TensorRTDouble, profile: str) -> None:
    with pytest.raises(ProfileError, match="inside the plan's"):
        opened(trt, profile=Profile.parse(profile))


def test_results_stay_while_they_are_held_and_their_memory_is_used_again_after(trt: TensorRTDouble) -> None:
    session = opened(trt)
    first = check(session, start=1)
    kept = first["y"].copy()
    check(session, start=7)
    np.testing.assert_array_equal(first["y"], kept)
    address = first["y"].__array_interface__["data"][0]
    del first
    gc.collect()
    assert address in {session(request())["y"].__array_interface__["data"][0] for _ in range(3)}


def test_memory_on_the_device_is_allocated_once_at_the_largest(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    session = opened(trt, (1, 2, 4), (1, 12, 16))
    for seq in (12, 1):
        check(session, seq=seq)
    allocated = cuda.calls.count("allocate")
    for batch, seq in ((4, 16), (1, 1), (4, 4), (2, 13)):
        check(session, batch, seq)
    assert cuda.calls.count("allocate") == allocated


def test_shapes_are_given_to_tensorrt_only_when_they_change(trt: TensorRTDouble) -> None:
    session = opened(trt)
    for seq in (3, 3, 3, 4, 4):
        check(session, seq=seq)
    assert trt.contexts[0].said.count("set_input_shape") == 4
    check(session, seq=3)
    assert trt.contexts[0].said.count("set_input_shape") == 6
    assert trt.contexts[0].said.count("set_device_memory") == 1


def test_an_output_of_unknown_size_is_asked_for_by_the_library(trt: TensorRTDouble) -> None:
    session = TensorRTSession(trt.plan(networks.positives()))
    for values in ([1, -1, 2], [-1.0], [1] * 64, [3, 3]):
        x = np.array(values, np.float32)
        found = session(x=x)
        np.testing.assert_array_equal(found["found"], np.flatnonzero(x > 0))
        np.testing.assert_array_equal(found["twice"], x * 2)
    assert list(trt.contexts[0].allocators) == ["found"]


def test_no_memory_for_such_an_output_is_an_error(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    session = TensorRTSession(trt.plan(networks.positives()))
    session(x=-np.ones(3, np.float32))
    cuda.size = 0
    with pytest.raises(RequestError, match="no memory for an output"):
        session(x=np.ones(60, np.float32))


def test_inputs_that_give_shapes_stay_on_the_host(trt: TensorRTDouble) -> None:
    session = TensorRTSession(trt.plan(networks.repeated()))
    x = np.array([1, 2, 3], np.float32)
    for times in (2, 5, 1):
        found = session(x=x, times=np.array([times], np.int64))
        np.testing.assert_array_equal(found["y"], np.tile(x, (times, 1)))
        np.testing.assert_array_equal(found["shape"], [times, 3])


def test_a_cache_written_in_place_comes_back(trt: TensorRTDouble) -> None:
    session = TensorRTSession(trt.plan(networks.cache()))
    before = np.arange(8, dtype=np.float32)
    found = session(cache=before, new=np.array([9, 9], np.float32))
    np.testing.assert_array_equal(found["present"], [9, 9, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(before, np.arange(8))


def test_torch_in_main_memory_gives_torch(trt: TensorRTDouble) -> None:
    torch = pytest.importorskip("torch")
    given = request()
    found = opened(trt)({name: torch.from_numpy(array) for name, array in given.items()})
    assert torch.equal(found["y"], torch.from_numpy(expected(given)["y"]))


def test_bfloat16_crosses_by_its_bits(trt: TensorRTDouble) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    network = networks.Network(
        inputs={"x": ("BF16", (-1,))},
        outputs={"y": ("BF16", (-1,))},
        profiles=[{"x": ((1,), (4,), (8,))}],
        compute=lambda given: {"y": given["x"] ^ np.uint16(0x8000)},
        shapes=lambda shapes, _: {"y": shapes["x"]},
    )
    found = TensorRTSession(trt.plan(network))(x=np.array([1, -2], ml_dtypes.bfloat16))["y"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), [-1, 2])


def test_a_run_that_fails_says_what_tensorrt_says(trt: TensorRTDouble) -> None:
    session = opened(trt)
    trt.failing.add("execute_async_v3")
    with pytest.raises(RequestError) as caught:
        session(request())
    assert str(caught.value) == (
        "run in TensorRT: found a run that fails: a layer refuses; needed inputs that every layer takes"
    )
    trt.failing.clear()
    check(session)


def test_shapes_that_tensorrt_refuses_are_no_request(trt: TensorRTDouble) -> None:
    session = opened(trt)
    check(session, seq=3)
    trt.failing.add("infer_shapes")
    with pytest.raises(RequestError, match="shapes do not fit"):
        session(request(seq=4))
    trt.failing.clear()
    check(session, seq=3)


def test_several_threads_may_call_at_once(trt: TensorRTDouble) -> None:
    session = opened(trt, (1, 2, 4), (2, 12, 16))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: check(session, 1 + each % 4, 1 + each % 16, each), range(48)))


def test_closing_frees_everything_and_ends_the_session(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    session = opened(trt, cuda_graphs=True)
    for _ in range(3):
        check(session)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="a closed session"):
        session(request())
    assert (cuda.memory, cuda.events, cuda.graphs, list(cuda.streams)) == ({}, {}, {}, [0])


def test_a_device_without_room_is_said(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    cuda.size = 512
    with pytest.raises(MissingDependencyError, match="more free memory"):
        opened(trt)
