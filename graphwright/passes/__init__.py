"""The catalogue: every pass, in running order, and the default pipeline of each target.

A new pass is a file in one of the families and one line here. Passes of other packages are found by the entry
point group ``graphwright.passes``; each entry names a ``Rule`` or ``FunctionPass`` and its name is ``family.anything``.
"""

from graphwright.engine.pipeline import Catalogue, Pass
from graphwright.passes.lift.fuse_gelu import FUSE_GELU

LIFT: tuple[Pass, ...] = (FUSE_GELU,)
TRANSFORM: tuple[Pass, ...] = ()
LOWER: tuple[Pass, ...] = ()

# What each target's default pipeline runs. A fusion that loses on the target is not in its list (docs/design/).
DEFAULTS: dict[str, tuple[str, ...]] = {
    "onnx": ("fuse-gelu",),
    "ort-cpu": ("fuse-gelu",),
    "ort-cuda": ("fuse-gelu",),
}

CATALOGUE = Catalogue({"lift": LIFT, "transform": TRANSFORM, "lower": LOWER}, DEFAULTS)
