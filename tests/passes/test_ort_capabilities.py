"""The table of ONNX Runtime's operators: what it says of the CPU is true here, and the pipelines follow it."""

from collections.abc import Mapping

import onnx_ir as ir
import pytest

from graphwright.errors import LoadError
from graphwright.passes import CATALOGUE
from graphwright.passes.lower import ort_capabilities
from graphwright.passes.lower.ort_capabilities import CPU, CUDA, TABLE, TARGETS, Capability, Pays, capability, fusions
from graphwright.runtime.machine import onnxruntime_version
from graphwright.runtime.ort import OrtSession
from graphwright.testing import model

# One node of each operator: its inputs' shapes, and the node.
NODES: Mapping[str, tuple[str, str]] = {
    "Attention": ("{t}[2,3,8] x", "Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x)"),
    "LayerNormalization": ("{t}[2,3,8] x, {t}[8] g", "LayerNormalization(x, g)"),
    "RMSNormalization": ("{t}[2,3,8] x, {t}[8] g", "RMSNormalization(x, g)"),
    "RotaryEmbedding": ("{t}[2,3,8] x, {t}[2,3,2] c", "RotaryEmbedding <num_heads = 2> (x, c, c)"),
    "com.microsoft.BiasGelu": ("{t}[2,3,8] x, {t}[8] g", "com.microsoft.BiasGelu(x, g)"),
    "com.microsoft.FusedMatMul": ("{t}[2,3,8] x, {t}[8,8] w", "com.microsoft.FusedMatMul(x, w)"),
    "com.microsoft.FusedGemm": ("{t}[6,8] x, {t}[8,8] w", 'com.microsoft.FusedGemm <activation = "Relu"> (x, w)'),
    "com.microsoft.FastGelu": ("{t}[2,3,8] x", "com.microsoft.FastGelu(x)"),
    "com.microsoft.QuickGelu": ("{t}[2,3,8] x", "com.microsoft.QuickGelu(x)"),
    "com.microsoft.SkipLayerNormalization": (
        "{t}[2,3,8] x, {t}[8] g",
        "com.microsoft.SkipLayerNormalization(x, x, g, g)",
    ),
    "com.microsoft.SkipSimplifiedLayerNormalization": (
        "{t}[2,3,8] x, {t}[8] g",
        "com.microsoft.SkipSimplifiedLayerNormalization(x, x, g)",
    ),
    "com.microsoft.MultiHeadAttention": ("{t}[2,3,8] x", "com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)"),
    "com.microsoft.Attention": (
        "{t}[2,3,8] x, {t}[8,24] w, {t}[24] b",
        "com.microsoft.Attention <num_heads = 2> (x, w, b)",
    ),
    "com.microsoft.GroupQueryAttention": (
        "{t}[2,3,8] x, {t}[2,3,4] k, int32[2] s, int32[1] n",
        'com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (x, k, k, "", "", s, n)',
    ),
    "com.microsoft.RotaryEmbedding": (
        "{t}[2,3,8] x, int64[2,3] p, {t}[9,4] c",
        "com.microsoft.RotaryEmbedding(x, p, c, c)",
    ),
    "com.microsoft.MoE": (
        "{t}[6,8] x, {t}[6,4] p, {t}[4,8,8] w",
        'com.microsoft.MoE <k = 1> (x, p, w, "", w)',
    ),
}
# Quantized weights in blocks: one node of it says little.
NOT_TRIED = {"com.microsoft.QMoE"}


def one_node(operator: str, dtype: ir.DataType) -> ir.Model:
    inputs, node = NODES[operator]
    head = f'<ir_version: 10, opset_import: ["": 24, "com.microsoft": 1]> g ({inputs.format(t=dtype.name.lower())})'
    return model(f"{head} => ({dtype.name.lower()}[A,B,C] y) {{ y = {node} }}", infer=False)


ROWS = [(row, dtype) for row in TABLE[CPU] if row.operator not in NOT_TRIED for dtype in sorted(row.types, key=str)]


@pytest.mark.parametrize(("row", "dtype"), ROWS, ids=[f"{row.operator}-{dtype.name}" for row, dtype in ROWS])
def test_the_cpu_has_what_the_table_says(row: Capability, dtype: ir.DataType) -> None:
    given = one_node(row.operator, dtype)
    if row.operator in ("com.microsoft.MoE", "com.microsoft.FusedGemm"):
        given.graph.outputs[0].shape = ir.Shape(["A", "B"])
    OrtSession(given).close()


@pytest.mark.parametrize("operator", ["com.microsoft.BiasGelu", "com.microsoft.MultiHeadAttention"])
def test_the_cpu_lacks_what_the_table_leaves_out(operator: str) -> None:
    assert ir.DataType.BFLOAT16 not in ort_capabilities.types(operator, CPU)
    given = one_node(operator, ir.DataType.DOUBLE)
    with pytest.raises(LoadError):
        OrtSession(given)


def test_what_cuda_has_the_cpu_has_too_so_that_its_numbers_can_be_checked_there() -> None:
    assert {row.operator for row in TABLE[CUDA]} <= {row.operator for row in TABLE[CPU]}
    assert {row.operator for row in TABLE[CPU]} == {*NODES, *NOT_TRIED}


@pytest.mark.parametrize("target", TARGETS)
def test_a_default_pipeline_makes_what_gains_and_never_what_loses(target: str) -> None:
    names = {step.name for step in CATALOGUE.default(target).steps}
    for row in TABLE[TARGETS[target]]:
        for each in filter(None, (row.made_by, row.avoided_by)):
            CATALOGUE.find(each)
        if row.made_by:
            assert (row.made_by in names) == (row.pays in (Pays.GAINS, Pays.TRUSTED)), row.operator
        if row.avoided_by:
            assert (row.avoided_by in names) == (row.pays is Pays.LOSES), row.operator


def test_nothing_of_cuda_counts_as_measured() -> None:
    assert {row.pays for row in TABLE[CUDA]} <= {Pays.TRUSTED, Pays.UNKNOWN}


def test_the_newest_row_that_is_old_enough_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    floats = frozenset({ir.DataType.FLOAT})
    rows = (
        Capability("Op", floats, Pays.LOSES, "a test", since="1.23", made_by="one"),
        Capability("Op", floats, Pays.GAINS, "a test", since="1.30", made_by="two"),
    )
    monkeypatch.setattr(ort_capabilities, "TABLE", {CPU: rows})
    found = {version: capability("Op", CPU, version) for version in ("1.22.0", "1.29.3", "1.30.0", "1.31.1")}
    assert [None if each is None else each.since for each in found.values()] == [None, "1.23", "1.30", "1.30"]
    assert fusions("ort-cpu", "1.29") == frozenset() and fusions("ort-cpu", "1.30") == {"two"}
    assert ort_capabilities.types("Op", CPU) == floats and not ort_capabilities.types("Another", CPU)


def test_the_table_is_of_a_version_no_newer_than_this_one() -> None:
    installed = tuple(map(int, onnxruntime_version().split(".")[:2]))
    assert tuple(map(int, ort_capabilities.NEWEST.split("."))) <= installed
