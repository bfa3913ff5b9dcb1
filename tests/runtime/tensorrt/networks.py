"""Networks for the double: small ones in which a wrong address, shape, order or profile changes the numbers."""

from typing import Any

import numpy as np

from tests.runtime.tensorrt.context_double import Arrays, Network, Shape

Profiles = list[dict[str, tuple[Shape, Shape, Shape]]]


def profiles(*bounds: tuple[int, int, int]) -> Profiles:
    """Profiles of the sequence length, one a triple; the batch is 1 to 4."""
    return [
        {
            name: tuple((batch, size, *last) for batch, size in zip((1, 2, 4), bound, strict=True))
            for name, last in (("x", (4,)), ("ids", ()))
        }
        for bound in bounds
    ]  # type: ignore[misc]  # three shapes each


def expected(given: Arrays) -> Arrays:
    y = given["x"] * 2 + given["ids"][..., None].astype(np.float32)
    return {"y": y, "total": y.sum(axis=-1).astype(np.float32)}


def sums(*bounds: tuple[int, int, int], **more: Any) -> Network:
    """Two inputs of two types, two outputs of two ranks."""
    return Network(
        inputs={"x": ("FLOAT", (-1, -1, 4)), "ids": ("INT64", (-1, -1))},
        outputs={"y": ("FLOAT", (-1, -1, 4)), "total": ("FLOAT", (-1, -1))},
        profiles=profiles(*(bounds or ((1, 8, 16),))),
        compute=expected,
        shapes=lambda shapes, _: {"y": shapes["x"], "total": shapes["ids"]},
        **{"scratch": (1024,) * max(len(bounds), 1), **more},
    )


def request(batch: int = 2, seq: int = 3, start: float = 0.0) -> Arrays:
    x = np.arange(batch * seq * 4, dtype=np.float32).reshape(batch, seq, 4) + np.float32(start)
    return {"x": x, "ids": np.arange(batch * seq, dtype=np.int64).reshape(batch, seq)}


def positives() -> Network:
    """An output of which only the values tell the size, beside one of known size."""
    return Network(
        inputs={"x": ("FLOAT", (-1,))},
        outputs={"found": ("INT64", (-1,)), "twice": ("FLOAT", (-1,))},
        profiles=[{"x": ((1,), (8,), (64,))}],
        compute=lambda given: {"found": np.flatnonzero(given["x"] > 0), "twice": given["x"] * 2},
        shapes=lambda shapes, _: {"found": None, "twice": shapes["x"]},
    )


def repeated() -> Network:
    """A shape input, whose values on the host give the output's shape, and an output on the host."""
    return Network(
        inputs={"x": ("FLOAT", (-1,)), "times": ("INT64", (1,))},
        outputs={"y": ("FLOAT", (-1, -1)), "shape": ("INT64", (2,))},
        profiles=[{"x": ((1,), (4,), (8,)), "times": ((1,), (1,), (1,))}],
        compute=lambda given: {
            "y": np.tile(given["x"], (int(given["times"][0]), 1)),
            "shape": np.array([given["times"][0], len(given["x"])], np.int64),
        },
        shapes=lambda shapes, values: {"y": (int(values["times"][0]), *shapes["x"]), "shape": (2,)},
        hosts=frozenset({"times", "shape"}),
    )


def tiled() -> Network:
    """The same without the output on the host."""
    network = repeated()
    network.outputs = {"y": network.outputs["y"]}
    tile, shapes = network.compute, network.shapes
    network.compute = lambda given: {"y": tile(given)["y"]}
    network.shapes = lambda sizes, values: {"y": shapes(sizes, values)["y"]}
    return network


def cache() -> Network:
    """An output in the memory of an input, as that of a key-value cache."""

    def compute(given: Arrays) -> Arrays:
        updated = given["cache"].copy()
        updated[: len(given["new"])] = given["new"]
        return {"present": updated, "sum": updated.sum(keepdims=True, dtype=np.float32)}

    return Network(
        inputs={"cache": ("FLOAT", (8,)), "new": ("FLOAT", (-1,))},
        outputs={"present": ("FLOAT", (8,)), "sum": ("FLOAT", (1,))},
        profiles=[{"cache": ((8,), (8,), (8,)), "new": ((1,), (1,), (8,))}],
        compute=compute,
        shapes=lambda shapes, _: {"present": (8,), "sum": (1,)},
        aliases={"present": "cache"},
    )
