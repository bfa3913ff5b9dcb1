"""The traced patterns of the rules in this folder: formulas of ``spellings.py``, which is imported only to be traced.

They stand behind the patterns written by hand, which take more spellings of today's exporters. What these add is that
an exporter's next spelling of the same formula is matched without a change here (docs/design/0010). The bound names are
those that the rules' rewrites take.
"""

from graphwright.engine.traced import Traced
from graphwright.passes.lift import normalization

_SPELLINGS = "graphwright.passes.lift.spellings:"

# One tensor of any shape.
_ANY = {"x": "T[...]"}
_SCALED = {"x": "narrowed_to[..., E]", "scale": "narrowed_to[E]"}
_EPSILONS = {"epsilon": (1e-3, 3e-3)}
_LAST = (-1,)

# ``lifted`` is off throughout: these rules are the lift family, and meet graphs before it is done.
GELU = tuple(
    Traced(f"{_SPELLINGS}{name}", _ANY, bound={"form": form}, lifted=False)
    for name, form in (("gelu", 0), ("gelu_python", 0), ("gelu_tanh", 1), ("gelu_new", 1), ("gelu_fast", 1))
)

SWISH = (
    Traced(f"{_SPELLINGS}silu", _ANY, lifted=False),
    Traced(f"{_SPELLINGS}scaled_swish", _ANY, {"alpha": (1.5, 1.702)}, lifted=False),
)

MISH = (Traced(f"{_SPELLINGS}gated_by_tanh_of_softplus", _ANY, lifted=False),)

RMS_NORM = (
    *(
        Traced(
            f"{_SPELLINGS}{name}", _SCALED, _EPSILONS, bound={"axes": _LAST, "width": normalization.PLAIN}, lifted=False
        )
        for name in ("llama_rms_norm", "t5_rms_norm")
    ),
    Traced(
        f"{_SPELLINGS}llama_rms_norm",
        _SCALED,
        _EPSILONS,
        dtype="half",
        bound={"axes": _LAST, "width": normalization.NARROWED},
        lifted=False,
    ),
)

LAYER_NORM = (
    Traced(
        f"{_SPELLINGS}cohere_layer_norm",
        _SCALED,
        _EPSILONS,
        bound={"mean_axes": _LAST, "variance_axes": _LAST, "width": normalization.PLAIN},
        lifted=False,
    ),
)
