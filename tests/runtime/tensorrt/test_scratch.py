"""Scratch memory that engines share: one buffer, the largest size, one run at a time."""

import gc
import threading

import numpy as np
import pytest

from graphwright.errors import MissingDependencyError, UsageError
from graphwright.runtime.tensorrt.scratch import SharedScratch
from graphwright.runtime.tensorrt.session import TensorRTSession
from tests.runtime.tensorrt import networks
from tests.runtime.tensorrt.cuda_double import CudaDouble
from tests.runtime.tensorrt.networks import expected, request
from tests.runtime.tensorrt.runtime_double import TensorRTDouble


def test_engines_share_one_buffer_of_the_largest_size(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    scratch = SharedScratch()
    sizes = (3000, 9000, 500)
    sessions = [TensorRTSession(trt.plan(networks.sums(scratch=(size,))), scratch=scratch) for size in sizes]
    assert scratch.size == 9000
    for session in sessions * 2:
        np.testing.assert_array_equal(session(request())["y"], expected(request())["y"])
    assert {context.memory for context in trt.contexts} == {(scratch.address, size) for size in sizes}


def test_the_profiles_of_one_engine_share_it_too(trt: TensorRTDouble) -> None:
    session = TensorRTSession(trt.plan(networks.sums((1, 2, 4), (2, 12, 16), scratch=(700, 4000))))
    for seq in (2, 12, 3):
        session(request(seq=seq))
    memory = [context.memory for context in trt.contexts]
    assert memory[0] is not None and memory[1] is not None
    assert memory[0][0] == memory[1][0] and (memory[0][1], memory[1][1]) == (700, 4000)


def test_a_scratch_on_another_device_is_refused(trt: TensorRTDouble) -> None:
    scratch = SharedScratch()
    scratch.device = 1
    with pytest.raises(UsageError, match="found one on cuda:1; needed one on cuda:0"):
        TensorRTSession(trt.plan(networks.sums()), scratch=scratch)


def test_a_run_waits_for_the_run_before_on_another_stream(cuda: CudaDouble) -> None:
    scratch, done = SharedScratch(), []
    with cuda.current():
        one, two = cuda.new_stream(), cuda.new_stream()
        for stream, name in ((one, "first"), (two, "second"), (one, "third")):
            with scratch.lent(100, stream):
                cuda.put(stream, "run", lambda name=name: done.append(name))
        cuda.synchronize(two)
        assert done == ["first", "second"]
        cuda.synchronize(one)
    assert done == ["first", "second", "third"]


def test_it_grows_only_after_the_run_that_uses_it(cuda: CudaDouble) -> None:
    scratch, seen = SharedScratch(), []
    with cuda.current():
        stream = cuda.new_stream()
        with scratch.lent(512, stream) as address:
            cuda.put(stream, "run", lambda: seen.append(cuda.bytes_at(address, 512).size))
        scratch.reserve(4096)
    assert seen == [512] and scratch.size == 4096 and len(cuda.memory) == 1


def test_it_never_shrinks_and_an_engine_that_needs_none_gets_an_address(cuda: CudaDouble) -> None:
    scratch = SharedScratch()
    with cuda.current():
        stream = cuda.new_stream()
        scratch.reserve(2000)
        scratch.reserve(100)
        with scratch.lent(0, stream) as address:
            assert address and address == scratch.address
    assert scratch.size == 2000 and cuda.calls.count("allocate") == 1


def test_no_room_leaves_nothing_behind(cuda: CudaDouble) -> None:
    cuda.size = 1000
    scratch = SharedScratch()
    scratch.reserve(900)
    with pytest.raises(MissingDependencyError, match="more free memory"):
        scratch.reserve(5000)
    assert (scratch.size, scratch.address, cuda.memory) == (0, 0, {})
    scratch.reserve(800)
    assert scratch.size == 800


def test_one_thread_at_a_time_has_it(cuda: CudaDouble) -> None:
    scratch, inside, most = SharedScratch(), [], []

    def run() -> None:
        for _ in range(50):
            with scratch.lent(64, 0):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=run) for _ in range(4)]
    with cuda.current():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(most) == 200 and max(most) == 1


def test_a_closed_one_is_refused_and_a_dropped_one_is_freed(cuda: CudaDouble) -> None:
    scratch = SharedScratch()
    scratch.reserve(100)
    scratch.close()
    with pytest.raises(UsageError, match="a closed one"), scratch.lent(1, 0):
        raise AssertionError("nothing is lent")
    other = SharedScratch()
    other.reserve(100)
    del other
    gc.collect()
    assert not cuda.memory and not cuda.events
