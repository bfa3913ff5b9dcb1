"""CUDA graphs of runs: what is recorded, when it is replayed, and when it must not be."""

import warnings

import numpy as np
import pytest

from graphwright.runtime.tensorrt import graphs
from graphwright.runtime.tensorrt.scratch import SharedScratch
from graphwright.runtime.tensorrt.session import TensorRTSession
from tests.runtime.tensorrt import networks
from tests.runtime.tensorrt.cuda_double import CudaDouble
from tests.runtime.tensorrt.networks import expected, request
from tests.runtime.tensorrt.runtime_double import TensorRTDouble


def opened(trt: TensorRTDouble, *bounds: tuple[int, int, int], scratch: SharedScratch | None = None) -> TensorRTSession:
    return TensorRTSession(trt.plan(networks.sums(*bounds)), cuda_graphs=True, scratch=scratch)


def check(session: TensorRTSession, batch: int = 2, seq: int = 3, start: float = 0.0) -> None:
    given = request(batch, seq, start)
    found = session(given)
    for name, array in expected(given).items():
        np.testing.assert_array_equal(found[name], array)


def test_the_second_call_of_a_shape_records_and_the_next_ones_replay(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    session = opened(trt)
    given = request()
    runs, launches = [], []
    for _ in range(5):
        np.testing.assert_array_equal(session(given)["y"], expected(given)["y"])
        runs.append(sum(context.said.count("execute_async_v3") for context in trt.contexts))
        launches.append(cuda.calls.count("launch"))
    # The second call runs and is recorded, in a context of its own; recording runs nothing.
    assert runs == [1, 3, 3, 3, 3] and len(trt.contexts) == 2
    assert launches == [0, 0, 1, 2, 3]


def test_a_context_that_cannot_be_made_leaves_the_runs_without_graphs(trt: TensorRTDouble) -> None:
    session = opened(trt)
    check(session)
    trt.failing.add("create_execution_context")
    with pytest.warns(RuntimeWarning, match="no CUDA graphs for this engine: .*more memory on the GPU"):
        check(session)
    check(session)
    assert len(trt.contexts) == 1


def test_each_shape_and_profile_has_its_graph(trt: TensorRTDouble) -> None:
    session = opened(trt, (1, 2, 4), (2, 12, 16))
    # The outputs of the longer profile need larger buffers.
    check(session, seq=13)
    for number in range(4):
        for seq in (3, 4, 13, 3):
            check(session, seq=seq, start=number)
    assert session.graphs is not None and len(session.graphs) == 3


def test_a_replay_reads_the_inputs_of_its_own_call(trt: TensorRTDouble) -> None:
    session = opened(trt)
    for number in range(4):
        check(session, start=number)


def test_graphs_of_a_scratch_that_has_grown_are_not_replayed(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    scratch = SharedScratch()
    session = opened(trt, scratch=scratch)
    for _ in range(3):
        check(session)
    launches = cuda.calls.count("launch")
    TensorRTSession(trt.plan(networks.sums(scratch=(1 << 16,))), scratch=scratch)
    check(session)
    assert launches and cuda.calls.count("launch") == launches and session.graphs is not None
    assert len(session.graphs) <= 1
    check(session)
    check(session)
    assert cuda.calls.count("launch") > launches


def test_graphs_of_buffers_that_have_moved_are_freed(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    session = opened(trt, (1, 2, 4), (2, 12, 16))
    for _ in range(3):
        check(session, seq=3)
    check(session, seq=13)
    assert not cuda.graphs
    for _ in range(3):
        check(session, seq=3)
    assert len(cuda.graphs) == 1


def test_values_that_give_shapes_are_part_of_the_key(trt: TensorRTDouble) -> None:
    session = TensorRTSession(trt.plan(networks.tiled()), cuda_graphs=True)
    x = np.arange(3, dtype=np.float32)
    for times in (2, 2, 2, 1, 3, 2, 1, 1, 1):
        found = session(x=x, times=np.array([times], np.int64))["y"]
        np.testing.assert_array_equal(found, np.tile(x, (times, 1)))
    assert session.graphs is not None and len(session.graphs) == 2


def test_an_engine_that_cannot_be_recorded_runs_without(trt: TensorRTDouble, cuda: CudaDouble) -> None:
    session = opened(trt)
    cuda.fail_capture = True
    check_once = request()
    session(check_once)
    with pytest.warns(RuntimeWarning, match="no CUDA graphs for this engine: .*901"):
        session(check_once)
    check(session)
    assert session.graphs is not None and "901" in session.graphs.failure and len(session.graphs) == 0
    assert cuda.calls.count("captured") == 1


@pytest.mark.parametrize("network", [networks.positives(), networks.repeated()])
def test_what_is_known_only_after_the_run_is_not_recorded(trt: TensorRTDouble, network: networks.Network) -> None:
    session = TensorRTSession(trt.plan(network), cuda_graphs=True)
    given = {"x": np.ones(3, np.float32), "times": np.array([2], np.int64)}
    given = {name: value for name, value in given.items() if name in network.inputs}
    with pytest.warns(RuntimeWarning, match="known only after the run"):
        session(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            session(given)
    assert len(trt.contexts) == 1 and trt.contexts[0].said.count("execute_async_v3") == 4


def test_of_too_many_graphs_the_one_used_longest_ago_goes(cuda: CudaDouble) -> None:
    kept = graphs.Graphs(cuda, kept=2)
    with cuda.current():
        stream = cuda.new_stream()
        done: list[str] = []

        def call(name: str) -> None:
            def enqueue() -> None:
                cuda.put(stream, "run", lambda: done.append(name))

            kept.run(name, stream, enqueue, lambda: enqueue)

        for name in ("a", "a", "b", "b", "a", "c", "c"):
            call(name)
        assert len(kept) == 2
        before = cuda.calls.count("launch")
        for name, launches in (("a", 1), ("c", 2), ("b", 2)):
            call(name)
            assert cuda.calls.count("launch") == before + launches
        cuda.synchronize(stream)
        kept.clear(stream)
    assert done == ["a", "a", "b", "b", "a", "c", "c", "a", "c", "b"]
    assert not cuda.graphs
