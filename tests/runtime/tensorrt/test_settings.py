"""The options of a build and trtexec's spelling of profiles."""

from typing import Any

import pytest

from graphwright.cli.engine_shapes import profiles
from graphwright.errors import ProfileError, UsageError
from graphwright.runtime.tensorrt.settings import EngineSettings, memory_size, workspace_of_pools


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"builder_optimization_level": 6}, "6; needed 0 to 5"),
        ({"builder_optimization_level": True}, "True; needed 0 to 5"),
        ({"builder_optimization_level": None}, "None; needed 0 to 5"),
        ({"max_tactics": 0}, "0; needed a whole number from 1"),
        ({"max_aux_streams": -1}, "-1"),
        ({"workspace": 0}, "0; needed a size above zero"),
        ({"workspace": "much"}, "'much'"),
        ({"workspace": "999999999999G"}, "'999999999999G'"),
        ({"hardware_compatibility": "turing"}, "'turing'; needed none or ampere"),
        ({"hardware_compatibility": 1}, "1; needed"),
        ({"exclude_lean_runtime": True}, "version_compatible as well"),
        ({"plugins_to_serialize": ["a.so"]}, "version_compatible as well"),
        ({"plugins": "a.so"}, "'a.so'; needed a list"),
        ({"hars": "library"}, "no plugin library"),
        ({"error_on_timing_cache_miss": True}, "no timing cache"),
        (
            {"error_on_timing_cache_miss": True, "timing_cache": "t", "builder_optimization_level": 0},
            "level 0, which asks no timing cache",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        EngineSettings(**options)


def test_sizes_are_mib_or_have_a_unit() -> None:
    assert [memory_size(text) for text in (1, "1", "1M", "1MiB", "1024k", "0.5M", "7B")] == [*[2**20] * 5, 2**19, 7]
    assert workspace_of_pools("workspace:0.5") == "0.5"
    with pytest.raises(UsageError, match="workspace:SIZE"):
        workspace_of_pools("dlaSRAM:1")


def test_settings_made_from_settings_are_the_same() -> None:
    from dataclasses import replace

    first = EngineSettings(workspace=4, hardware_compatibility="AMPERE+", plugins=["a.so"], timing_cache="t")
    assert replace(first) == first and first.memory_pools() == {"WORKSPACE": 4 * 2**20}


def test_quoted_names_may_hold_what_separates() -> None:
    (found,) = profiles([], ["'in,put:0':1x2,other=3"], ["'in,put:0':2x2,other=3"], ["'in,put:0':4x2,other=3"])
    assert str(found) == '"in,put:0"=1x2:2x2:4x2,other=3'


def test_the_numbers_of_profiles_order_them() -> None:
    found = profiles(["1", "0"], ["x:5", "x:1"], ["x:6", "x:2"], ["x:7", "x:3"])
    assert [str(each) for each in found or ()] == ["x=1:2:3", "x=5:6:7"]


def test_one_corner_alone_stands_for_all_three() -> None:
    assert [str(each) for each in profiles([], [], ["x:5"], []) or ()] == ["x=5"]
    assert profiles([], [], [], []) is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((["0", "2"], ["x:1"] * 2, ["x:1"] * 2, ["x:1"] * 2), "0, 2 for 2 profiles; needed 0 to 1"),
        ((["0"], [], [], []), "0 for 0 profiles; needed shapes after it"),
        (([], ["x:1"], ["x:1"], []), "--max-shapes 0 times"),
        (([], ["x:1"], ["x:1", "x:2"], ["x:1"]), "--opt-shapes 2 times"),
        (([], ["x:1,y:1"], ["x:1"], ["x:1"]), "no opt and no max shape of y"),
        (([], ["x:1x1"], ["x:1"], ["x:1"]), "x of several ranks"),
        (([], ["x:1,x:2"], ["x:1"], ["x:1"]), "x twice"),
        (([], ["x:1x"], ["x:1"], ["x:1"]), "'x:1x'"),
        (([], [""], ["x:1"], ["x:1"]), "needed name"),
        (([], ["x:1,'y"], ["x:1"], ["x:1"]), "needed name"),
    ],
)
def test_shapes_that_do_not_pair_up_are_refused(given: tuple[list[str], ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        profiles(*given)


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(ProfileError, match="2:1:3"):
        profiles([], ["x:2"], ["x:1"], ["x:3"])
