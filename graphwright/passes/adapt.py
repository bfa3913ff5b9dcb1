"""Other packages' passes as steps of a pipeline, verified like ours.

``onnx_ir`` passes, onnxscript's rewrite rules and rule sets, and plain functions on a model are taken.
onnxscript is recognized without being imported: whoever has such a rule has imported it.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from graphwright.engine.pipeline import FunctionPass, Pass, RuleMaker
from graphwright.engine.rewrite import Rule
from graphwright.errors import PipelineError


def adapt(thing: object, name: str | None = None) -> Pass:
    """Return the pass that a thing stands for; its own name, if it has none, is made from that of its class.

    Raises:
        PipelineError: no pass of a known kind.

    Example:
        >>> from onnx_ir.passes.common import RemoveUnusedNodesPass
        >>> adapt(RemoveUnusedNodesPass()).name
        'remove-unused-nodes'
    """
    if isinstance(thing, Rule | FunctionPass | RuleMaker):
        return thing
    if isinstance(thing, ir.passes.PassBase):
        return FunctionPass(name or _kebab(type(thing).__name__.removesuffix("Pass")), _of_ir_pass(thing))
    if _is_onnxscript_rule(thing):
        return FunctionPass(name or _kebab(getattr(thing, "name", None) or type(thing).__name__), _of_rules(thing))
    needed = "a Rule, a FunctionPass, an onnx_ir pass, an onnxscript rule or rule set, or a function on a gs.Graph"
    raise PipelineError("passes", f"a {type(thing).__name__}", needed=needed)


def _of_ir_pass(wrapped: ir.passes.PassBase) -> Callable[[ir.Model], bool | ir.Model]:
    def run(model: ir.Model) -> bool | ir.Model:
        result = wrapped(model)
        return result.model if result.model is not model else result.modified

    return run


def _is_onnxscript_rule(thing: object) -> bool:
    rewriter = sys.modules.get("onnxscript.rewriter")
    kinds = [getattr(rewriter, name, None) for name in ("RewriteRuleSet", "RewriteRule")]
    return isinstance(thing, tuple(kind for kind in kinds if isinstance(kind, type)))


def _of_rules(rules: Any) -> Callable[[ir.Model], bool | ir.Model]:
    def run(model: ir.Model) -> bool | ir.Model:
        return bool(rules.apply_to_model(model))

    return run


def _kebab(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "-", name)
    return words.strip("-").lower() or "unnamed"
