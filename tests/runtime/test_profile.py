"""Profiles: text, fitting to a model, checks and points. The session's tests cover refused requests."""

import json
import string

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphwright.errors import ProfileError, RequestError
from graphwright.runtime.bound import BoundProfile, Range
from graphwright.runtime.profile import Profile


def model_of(**inputs: list[int | str | None] | None) -> ir.Model:
    values = [
        ir.Value(name=name, shape=None if dims is None else ir.Shape(dims), type=ir.TensorType(ir.DataType.INT64))
        for name, dims in inputs.items()
    ]
    return ir.Model(ir.Graph(values, [], nodes=[], opset_imports={"": 20}), ir_version=10)


BERT = model_of(input_ids=["batch", "seq"], attention_mask=["batch", "seq"])
CACHE = model_of(ids=["batch", "seq"], past_key=["batch", 2, "past", 4], mask=["batch", "past + seq"])


def refused(text: str, model: ir.Model = BERT) -> str:
    with pytest.raises(ProfileError) as caught:
        Profile.parse(text).bind(model)
    return str(caught.value)


# Text

names = st.one_of(
    st.sampled_from(["self", "s", "encoder/x:0", "a.b", "past + seq", "x[0]", "a=1", "a,b", "a;b", '"', " a ", "1x2"]),
    st.text(string.printable, min_size=1, max_size=8),
    st.text(min_size=1, max_size=4),
)
ranges = st.lists(st.integers(0, 2**40), min_size=3, max_size=3).map(lambda sizes: Range(*sorted(sizes)))
entries = st.lists(ranges, min_size=1, max_size=4).map(tuple)
one_profile = st.dictionaries(names, entries, min_size=1, max_size=4).map(lambda found: tuple(found.items()))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(one_profile, max_size=3).map(tuple))
def test_text_gives_the_same_profile_again(alternatives: tuple) -> None:  # type: ignore[type-arg]
    profile = Profile(alternatives)
    assert Profile.parse(str(profile)) == profile


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text('ab=:;,x12 "\\*', max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        profile = Profile.parse(text)
    except ProfileError:
        return
    assert Profile.parse(str(profile)) == profile


def test_both_forms_and_several_profiles_are_read() -> None:
    profile = Profile.parse(" ids=1x1:8x128:32x512 , past=4 ; encoder/x:0 = 1x3:2x3:4x3 ")
    assert profile.alternatives == (
        (("ids", (Range(1, 8, 32), Range(1, 128, 512))), ("past", (Range(4, 4, 4),))),
        (("encoder/x:0", (Range(1, 2, 4), Range(3, 3, 3))),),
    )
    assert str(profile) == "ids=1x1:8x128:32x512,past=4;encoder/x:0=1x3:2x3:4x3"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "profile: found ''"),
        ("batch", "found 'batch'"),
        ("batch=", "found 'batch='"),
        ("=3", "found '=3'"),
        ("batch=a", "found 'batch=a'"),
        ("batch=-1", "found 'batch=-1'"),
        ("batch=1,,seq=1", "found 'batch=1,,seq=1'"),
        ("batch=1;", "found 'batch=1;'"),
        ("batch=1:2", "'batch=1:2' with 2 shapes"),
        ("batch=1:2:3:4", "with 4 shapes"),
        ("ids=1x1:8:32x512", "shapes of several ranks"),
        ("batch=8:1:32", "profile entry batch: found 8:1:32; needed 0 <= min <= opt <= max"),
        ("batch=1,batch=1", "profile entry batch: found it more than once"),
        ('"a=1', "needed name=min:opt:max"),
        (f"batch={'9' * 5000}", "needed name=min:opt:max"),
    ],
)
def test_broken_text_is_refused(text: str, found: str) -> None:
    with pytest.raises(ProfileError) as caught:
        Profile.parse(text)
    assert found in str(caught.value)


# Fitting to a model


def test_both_forms_give_the_same_ranges() -> None:
    by_name = Profile.parse("batch=1:8:32,seq=1:128:512").bind(BERT)
    assert by_name == Profile.parse("input_ids=1x1:8x128:32x512").bind(BERT)
    assert by_name.shapes("opt") == {"input_ids": (8, 128), "attention_mask": (8, 128)}


def test_an_unknown_name_lists_the_names_there_are() -> None:
    text = refused("batch=1,sqe=1")
    assert "the name sqe" in text and "inputs input_ids, attention_mask; dimensions batch, seq" in text


def test_a_missing_range_is_named() -> None:
    assert "ranges for batch; needed also for seq; try: add seq=1:8:32" in refused("batch=1")
    assert "also for x[1]" in refused("x[0]=1", model_of(x=[None, None]))


def test_a_wrong_rank_says_both() -> None:
    assert "rank 3; needed rank 2: input_ids int64[batch, seq]" in refused("input_ids=1x1x1")
    assert "profile entry seq: found rank 2" in refused("seq=1x1,batch=1")


def test_a_fixed_size_must_be_kept() -> None:
    text = refused("x=1x3:2x3:4x3", model_of(x=["n", 4]))
    assert "profile entry x: found 3 on axis 1; needed 4, which the model fixes" in text


def test_shared_dimensions_must_agree() -> None:
    text = refused("input_ids=1x1:8x128:32x512,attention_mask=1x1:8x64:32x512")
    assert "dimension seq: found 1:64:512 (axis 1 of attention_mask)" in text
    assert "needed 1:128:512, as axis 1 of input_ids says" in text


def test_a_derived_dimension_follows() -> None:
    bound = Profile.parse("batch=1,seq=1:2:3,past=0:10:20").bind(CACHE)
    assert bound.shapes("max")["mask"] == (1, 23)
    same = Profile.parse("ids=1x1:1x2:1x3,past=0:10:20,mask=1x1:1x12:1x23").bind(CACHE)
    assert same == bound
    assert "past + seq: found 1:12:24" in refused("batch=1,seq=1:2:3,past=0:10:20,mask=1x1:1x12:1x24", CACHE)


def test_an_expression_of_unknown_names_is_a_dimension_of_its_own() -> None:
    model = model_of(x=["past + seq"])
    assert Profile.parse("past + seq=1:2:3").bind(model).shapes("max") == {"x": (3,)}


def test_a_hostile_expression_is_only_a_name() -> None:
    model = model_of(x=["n", "9**9**9**9*n", "__import__('os')"])
    bound = Profile.parse("n=1,x=1x2x3").bind(model)
    assert bound.shapes("opt") == {"x": (1, 2, 3)}


def test_an_input_and_a_dimension_of_one_name_are_kept_apart() -> None:
    assert Profile.parse("n=2").bind(model_of(n=["n"])).shapes("opt") == {"n": (2,)}
    assert Profile.parse("n=2,n2=5").bind(model_of(n=["n", "n2"])).shapes("opt") == {"n": (2, 5)}
    assert "an input and a dimension of another one" in refused("n=2,k=3", model_of(n=["k"], x=["n"]))


def test_an_unknown_rank_is_taken_from_the_profile() -> None:
    model = model_of(x=None)
    assert Profile.parse("x=1x2:2x2:3x2").bind(model).shapes("max") == {"x": (3, 2)}
    assert "input x: found a rank that the model leaves open" in refused("y=1", model)


def test_without_a_profile_any_size_of_at_least_one_fits() -> None:
    bound = Profile.unbounded().bind(BERT)
    assert not bound.is_bounded
    for shape in ((1, 1), (1000, 3)):
        bound.check(dict.fromkeys(("input_ids", "attention_mask"), np.zeros(shape, np.int64)))
    with pytest.raises(RequestError, match="needed seq 1 or more"):
        bound.check(dict.fromkeys(("input_ids", "attention_mask"), np.zeros((1, 0), np.int64)))
    assert {point["input_ids"] for point in bound.points()} >= {(1, 1), (2, 1), (2, 8)}


# Bound profiles


def test_the_nearest_profile_is_named() -> None:
    bound = Profile.parse("batch=1,seq=1:64:128;batch=8:16:32,seq=1:8:16").bind(BERT)
    bound.check(dict.fromkeys(("input_ids", "attention_mask"), np.zeros((32, 16), np.int64)))
    for shape, nearest in (((2, 100), "batch=1,seq=1:64:128"), ((20, 17), "batch=8:16:32,seq=1:8:16")):
        with pytest.raises(RequestError) as caught:
            bound.check(dict.fromkeys(("input_ids", "attention_mask"), np.zeros(shape, np.int64)))
        assert f"the nearest profile is {nearest};" in str(caught.value)


def test_a_derived_dimension_is_checked_in_a_request() -> None:
    bound = Profile.parse("batch=1,seq=1:2:3,past=0:10:20").bind(CACHE)
    request = {"ids": np.zeros((1, 2), np.int64), "past_key": np.zeros((1, 2, 5, 4), np.int64)}
    assert bound.check({**request, "mask": np.zeros((1, 7), np.int64)}) == {"batch": 1, "seq": 2, "past": 5}
    with pytest.raises(RequestError, match=r"input mask: found size 8 on axis 1; needed past \+ seq = 7"):
        bound.check({**request, "mask": np.zeros((1, 8), np.int64)})


def test_points_hold_the_corners_and_awkward_shapes_between() -> None:
    bound = Profile.parse("batch=1:8:32,seq=1:128:512").bind(BERT)
    found = [point["input_ids"] for point in bound.points()]
    assert found == [(1, 1), (8, 128), (32, 512), (2, 1), (1, 128), (3, 127)]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(ranges=st.lists(st.lists(st.integers(0, 300), min_size=3, max_size=3).map(sorted), min_size=3, max_size=3))
def test_every_point_passes_the_check(ranges: list[list[int]]) -> None:
    text = ",".join(
        f"{name}={':'.join(map(str, one))}" for name, one in zip(("batch", "seq", "past"), ranges, strict=True)
    )
    bound = Profile.parse(text).bind(CACHE)
    for shapes in bound.points():
        bound.check({name: np.broadcast_to(np.int64(0), shape) for name, shape in shapes.items()})


def test_the_manifest_keeps_a_profile() -> None:
    for text in ("batch=1,seq=1:64:128;batch=8:16:32,seq=1:8:16", "*"):
        bound = Profile.parse(text).bind(BERT)
        assert BoundProfile.from_json(json.loads(json.dumps(bound.to_json()))) == bound
    with pytest.raises(ProfileError, match="manifest"):
        BoundProfile.from_json({"inputs": [{"name": "x"}]})


def test_the_largest_shapes_are_taken_over_all_profiles() -> None:
    bound = Profile.parse("batch=1,seq=1:64:128;batch=8:16:32,seq=1:8:16").bind(BERT)
    assert bound.max_shapes()["input_ids"] == (32, 128)
