"""Lent buffers."""

import threading

import numpy as np

from graphwright.runtime.memory import Pool


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_buffer_is_not_lent_twice_while_a_view_lives() -> None:
    pool = Pool(np.dtype(np.float32), 100)
    first, _ = pool.lend((10, 10))
    view = first[3:5].T
    place = address(first)
    del first
    others = [pool.lend((10, 10))[0] for _ in range(4)]
    assert place not in map(address, others)
    del view, others
    again = [pool.lend((1,))[0] for _ in range(2)]
    assert place in map(address, again)


def test_what_does_not_fit_gets_memory_of_its_own() -> None:
    pool = Pool(np.dtype(np.int64), 4)
    array, buffer = pool.lend((5,))
    assert array.shape == (5,) and array.dtype == np.int64 and buffer is None


def test_a_maximum_beyond_the_machine_leaves_small_requests_alone() -> None:
    for largest in (2**50, 2**70):
        array, buffer = Pool(np.dtype(np.int64), largest).lend((5,))
        assert array.shape == (5,) and buffer is None


def test_a_lent_array_is_aligned_and_writable_to_its_end() -> None:
    pool = Pool(np.dtype(np.uint16), 33)
    array, buffer = pool.lend((3, 11))
    assert buffer is not None and address(array) % 64 == 0
    array[:] = 7
    np.testing.assert_array_equal(buffer.view((33,), np.dtype(np.uint16)), np.full(33, 7))


def test_no_two_threads_hold_the_same_buffer() -> None:
    pool = Pool(np.dtype(np.int64), 64)
    wrong = []

    def work(number: int) -> None:
        for _ in range(500):
            array, _ = pool.lend((64,))
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
