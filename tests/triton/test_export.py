"""export-triton: artifacts and plans become model repositories that the double of the server takes and serves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.cli import main
from graphwright.engine.compare import compare
from graphwright.engine.sample import sample_inputs
from graphwright.testing import model
from tests.triton.server_double import Server, published, read_config

HEAD = '<ir_version: 10, opset_import: ["": 24]> '
RELU = HEAD + "relu (float[batch, seq, 3] x) => (float[batch, seq, 3] y) { y = Relu(x) }"
# The scale is taken from all rows, as dynamic quantization does it.
MIXING = HEAD + "mixing (float[batch, 3] x) => (float[batch, 3] y) { m = ReduceMax<keepdims=1>(x)  y = Div(x, m) }"
# Zeros are no divisors among integers.
DIVIDING = HEAD + "dividing (int64[batch, 3] x) => (int64[batch, 3] y) <int64 c = {7}> { y = Div(c, x) }"
COUNTING = HEAD + "counting (int64[batch] x) => (int64[batch] y) <int64 c = {7}> { y = Add(x, c) }"


def artifact(text: str = RELU, profile: str | None = "batch=1:4:8,seq=1:16:32", **options: Any) -> gw.Artifact:
    return gw.optimize(ir.from_onnx_text(text), profile=profile, progress=False, **options)


CORPUS = Path(__file__).parents[1] / "corpus"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that torch's exporter wrote, optimized for two targets."""
    folder = tmp_path_factory.mktemp("bert")
    for target in ("ort-cpu", "onnx"):
        given = model((CORPUS / "bert_dynamo_24.onnxtxt").read_text())
        gw.optimize(given, profile="batch=1:2:4,seq=1:8:12", target=target, progress=False).save(folder / target)
    return folder


def serve_in_batches(folder: Path, repository: Path) -> None:
    """Joined requests are answered as the artifact answers each alone."""
    gw.export_triton(folder, repository, name="bert")
    server, source = Server(repository, "bert"), gw.load(folder)
    names = [tensor.name for tensor in server.config.input]
    assert names == [port.name for port in source.profile.inputs]
    assert list(server.config.dynamic_batching.preferred_batch_size) == [2, 4]
    requests = [sample_inputs(source.model, dict.fromkeys(names, (rows, 5)), seed=rows) for rows in (1, 2, 1)]
    for request, answer in zip(requests, server.infer(requests), strict=True):
        assert compare(source(request), answer) == []


@pytest.mark.parametrize("target", ["ort-cpu", "onnx"])
def test_a_bert_answers_joined_requests_as_the_artifact_answers_each(bert: Path, tmp_path: Path, target: str) -> None:
    serve_in_batches(bert / target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ort-cpu", "onnx"])
def test_a_hugging_face_bert_is_served(tmp_path: Path, target: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.AutoConfig.for_model("bert", vocab_size=99, max_position_embeddings=40, **small)
    traced = transformers.AutoModel.from_config(config).eval()
    profile = "batch=1:2:4,seq=1:8:16"
    gw.optimize(traced, profile=profile, target=target, progress=False).save(tmp_path / "bert")
    serve_in_batches(tmp_path / "bert", tmp_path / "models")


def test_the_files_are_those_of_the_artifact_and_an_artifact_in_memory_gives_the_same_numbers(tmp_path: Path) -> None:
    text = HEAD + "f (float[batch, 16] x) => (float[batch, 64] y) <float[16, 64] w> { y = MatMul(x, w) }"
    source = gw.optimize(model(text), profile="batch=1:2:4", progress=False)
    gw.export_triton(source, tmp_path, name="memory")
    source.save(tmp_path / "saved")
    made = gw.export_triton(tmp_path / "saved", tmp_path, name="folder")
    assert made.files == ("1/model.onnx", "1/model.onnx.data", "config.pbtxt")
    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "folder" / "1" / file).read_bytes() == (tmp_path / "saved" / file).read_bytes()
    request = {"x": np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)}
    for name in ("memory", "folder"):
        assert compare(source(request), Server(tmp_path, name).infer([request])[0]) == []


def test_an_artifact_in_memory_is_named_by_its_caller(tmp_path: Path) -> None:
    gw.export_triton(artifact(), tmp_path, gw.Serving(threads=2, instances=3, queue_delay=50), name="relu")
    config = Server(tmp_path, "relu").config
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.instance_group[0].count == 3
    assert config.dynamic_batching.max_queue_delay_microseconds == 50


def test_warm_up_runs_the_optimum_and_the_maximum(tmp_path: Path) -> None:
    gw.export_triton(artifact(), tmp_path, name="relu")
    samples = Server(tmp_path, "relu").config.model_warmup
    assert [(one.name, one.batch_size, list(one.inputs["x"].dims)) for one in samples] == [
        ("profile 0, opt", 4, [16, 3]),
        ("profile 0, max", 8, [32, 3]),
    ]
    gw.export_triton(artifact(), tmp_path, gw.Serving(warmup=False), name="cold")
    assert list(Server(tmp_path, "cold").config.model_warmup) == []


def test_a_shape_without_elements_is_no_warm_up(tmp_path: Path) -> None:
    text = HEAD + "f (float[batch, past] x, float[batch, 2] z) => (float[batch, all] y) { y = Concat<axis=1>(x, z) }"
    gw.export_triton(artifact(text, "batch=1:2:4,past=0:0:6"), tmp_path, name="cached")
    assert [one.name for one in Server(tmp_path, "cached").config.model_warmup] == ["profile 0, max"]


def test_a_model_that_refuses_zeros_is_not_warmed_up_with_them(tmp_path: Path) -> None:
    made = gw.export_triton(artifact(DIVIDING, "batch=1:2:4"), tmp_path, name="dividing")
    assert list(Server(tmp_path, "dividing").config.model_warmup) == []
    assert any("does not run on zeros" in note for note in made.notes)


def test_a_number_for_each_row_goes_through_the_batcher(tmp_path: Path) -> None:
    gw.export_triton(artifact(COUNTING, "batch=1:2:4"), tmp_path, name="counting")
    answers = Server(tmp_path, "counting").infer([{"x": np.array([[1]])}, {"x": np.array([[2], [3]])}])
    assert [answer["y"].tolist() for answer in answers] == [[8], [9, 10]]


def test_the_batch_stays_inside_every_profile_that_is_served(tmp_path: Path) -> None:
    made = artifact(profile="batch=1:16:32,seq=1:8:16;batch=1:1:2,seq=1:64:128")
    assert gw.export_triton(made, tmp_path, name="both").max_batch == 2
    assert gw.export_triton(made, tmp_path, gw.Serving(profiles=(0,)), name="short").max_batch == 32
    assert gw.export_triton(made, tmp_path, gw.Serving(max_batch=1), name="one").max_batch == 1


def test_without_batching_any_artifact_is_served(tmp_path: Path) -> None:
    text = (
        HEAD
        + "fixed (float[2, 3] x, float[n] w) => (float y) { a = ReduceSum<keepdims=0>(x)  \
        b = ReduceSum<keepdims=0>(w)  y = Add(a, b) }"
    )
    made = gw.export_triton(artifact(text, "n=1:2:4"), tmp_path, gw.Serving(max_batch=0), name="fixed")
    config = Server(tmp_path, "fixed").config
    assert (made.max_batch, [list(one.dims) for one in config.input]) == (0, [[2, 3], [-1]])


def test_inputs_with_a_default_are_left_out(tmp_path: Path) -> None:
    model = ir.from_onnx_text(HEAD + "f (float[batch, 3] x, float s) => (float[batch, 3] y) { y = Mul(x, s) }")
    scale = model.graph.inputs[1]
    scale.const_value = ir.tensor(np.float32(2), name="s")
    model.graph.initializers["s"] = scale
    made = gw.export_triton(gw.optimize(model, profile="batch=1:2:4", progress=False), tmp_path, name="f")
    assert [one.name for one in Server(tmp_path, "f").config.input] == ["x"]
    assert any("s" in note and "default" in note for note in made.notes)


def test_rows_that_depend_on_each_other_are_found_by_numbers(tmp_path: Path) -> None:
    made = artifact(MIXING, "batch=1:2:4")
    with pytest.raises(gw.VerificationError, match="in a batch than alone"):
        gw.export_triton(made, tmp_path / "models", name="mixing")
    assert not (tmp_path / "models").exists()
    gw.export_triton(made, tmp_path / "models", gw.Serving(max_batch=0), name="mixing")
    gw.export_triton(made, tmp_path / "models", gw.Serving(check_rows=False), name="unchecked")


@pytest.mark.parametrize(
    ("text", "profile", "found"),
    [
        (RELU, None, "without a maximum of batch"),
        (RELU, "batch=2:4:8,seq=1:2:3", "a minimum of 1"),
        (RELU.replace("batch", "4"), "seq=1:2:3", "one dynamic dimension"),
        (RELU.replace("batch, seq", "batch, batch"), "batch=1:2:3", "batch inside"),
        (HEAD + "f (float[a, 3] x, float[b, 3] z) => (float[a, 3] y) { y = Sum(x, x) }", "a=1:2:3,b=1:2:3", "but z"),
        (HEAD + "f (float[batch, 3] x) => (float y) { y = ReduceSum<keepdims=0>(x) }", "batch=1:2:3", "but y"),
    ],
)
def test_a_model_or_profile_without_a_batch_is_refused(
    tmp_path: Path, text: str, profile: str | None, found: str
) -> None:
    with pytest.raises(gw.ProfileError, match=found):
        gw.export_triton(artifact(text, profile), tmp_path / "models", name="m")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"max_batch": 9}, "at most 8"),
        ({"profiles": (1,)}, "profile numbers"),
        ({"profiles": ()}, "profile numbers"),
        ({"device": "gpu"}, "ort-cpu runs on"),
        ({"gpus": (0,)}, "option gpus"),
        ({"cuda_graphs": True}, "option cuda graphs"),
        ({"device": "tpu"}, "cpu or gpu"),
        ({"kernels": "models"}, "absolute path"),
        ({"instances": 0}, "instances"),
        ({"queue_delay": 2**31}, "queue delay"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], found: str) -> None:
    with pytest.raises(gw.UsageError, match=found):
        gw.export_triton(artifact(), tmp_path, gw.Serving(**options), name="m")


def test_an_artifact_of_another_target_is_sent_to_build_engine(tmp_path: Path) -> None:
    made = artifact()
    made.manifest["target"] = "tensorrt"
    with pytest.raises(gw.UsageError, match="build-engine"):
        gw.export_triton(made, tmp_path, name="m")
    made.manifest["target"] = "openvino"
    with pytest.raises(gw.UsageError, match="optimize for ort-cpu"):
        gw.export_triton(made, tmp_path, name="m")


def test_an_artifact_for_cuda_is_served_on_the_gpus_that_are_named(tmp_path: Path) -> None:
    made = artifact(target="ort-cuda")
    gw.export_triton(made, tmp_path, gw.Serving(gpus=(1,)), name="m")
    (group,) = read_config((tmp_path / "m" / "config.pbtxt").read_text()).instance_group
    assert (group.kind, list(group.gpus)) == (published().ModelInstanceGroup.KIND_GPU, [1])


def test_a_portable_artifact_moves_to_the_gpu_without_the_kernels_of_the_cpu(tmp_path: Path) -> None:
    made = artifact(target="onnx")
    gw.export_triton(made, tmp_path, gw.Serving(device="gpu"), name="m")
    (group,) = read_config((tmp_path / "m" / "config.pbtxt").read_text()).instance_group
    assert group.kind == published().ModelInstanceGroup.KIND_GPU
    with pytest.raises(gw.UsageError, match="option kernels"):
        gw.export_triton(made, tmp_path, gw.Serving(device="gpu", kernels="/models"), name="other")


@pytest.mark.parametrize(("precision", "found"), [("bf16", "bfloat16"), ("fp8", "float8e4m3fn")])
def test_types_that_a_plain_session_does_not_load_are_refused_on_the_cpu(
    tmp_path: Path, precision: str, found: str
) -> None:
    """The artifact itself runs: its session computes with a rewritten copy, or opens the file in its own way."""
    text = "(float[batch, 8] x) => (float[batch, 8] y) <float[8, 8] w> { y = MatMul(x, w) }"
    given = model(f'<ir_version: 10, opset_import: ["": 24]> g {text}')
    made = gw.optimize(given, profile="batch=1:4:8", target="onnx", precision=precision, progress=False)
    made.save(tmp_path / "made")
    for source in (made, tmp_path / "made"):
        with pytest.raises(gw.UsageError, match=f"numbers of type {found}"):
            gw.export_triton(source, tmp_path / "models", name="made")
    assert not (tmp_path / "models").exists()
    gw.export_triton(made, tmp_path / "models", gw.Serving(device="gpu"), name="made")


def test_files_that_were_changed_since_are_refused(tmp_path: Path) -> None:
    artifact().save(tmp_path / "saved")
    with (tmp_path / "saved" / "model.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(gw.LoadError, match="sha256"):
        gw.export_triton(tmp_path / "saved", tmp_path / "models")


def test_the_command_prints_what_it_wrote_and_what_to_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact().save(tmp_path / "saved")
    where = ["export-triton", str(tmp_path / "saved"), "-o", str(tmp_path / "models")]
    assert main([*where, "--max-batch", "4"]) == 0
    printed = capsys.readouterr()
    assert "version 1, backend onnxruntime, batches of up to 4\n  1/model.onnx\n  config.pbtxt\n" in printed.out
    assert "note: rows have the same numbers in a batch as alone" in printed.err
    assert main([*where, "--model-version", "2", "--max-batch", "4", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["name"], data["version"], data["max_batch"]) == ("saved", 2, 4)
    assert read_config(data["config"]).max_batch_size == 4


@pytest.mark.parametrize(
    ("source", "options", "code", "found"),
    [
        ("nothing", (), 3, "no such file"),
        ("empty", (), 3, "no artifact"),
        ("model.onnx", (), 2, "graphwright optimize"),
        ("saved", ("--name", "a/b"), 2, "model name"),
        ("saved", ("--max-batch", "99"), 2, "at most 8"),
        ("saved", ("--device", "tpu"), 2, "cpu or gpu"),
        ("saved", ("--model-version", "0"), 2, "model version"),
    ],
)
def test_bad_input_gives_one_paragraph_and_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, options: tuple[str, ...], code: int, found: str
) -> None:
    artifact().save(tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert main(["export-triton", str(tmp_path / source), "-o", str(tmp_path / "models"), *options]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and found in printed.err
    assert not (tmp_path / "models").exists()
