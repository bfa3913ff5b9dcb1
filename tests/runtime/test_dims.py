"""Sizes of dimensions written as expressions."""

import pytest

from graphwright.runtime import dims


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("n", 6),
        ("n + 1", 7),
        ("2*n - m", 8),
        ("n//4", 1),
        ("n/4", None),
        ("n/2", 3),
        ("floor(n/4)", 1),
        ("ceiling(n/4)", 2),
        ("Max(1, m, n)", 6),
        ("Mod(n, m)", 2),
        ("m**2", 16),
        ("-n + 20", 14),
        ("m - n", None),
        ("x.45_dim_1 + n", 9),
        ("unknown + n", None),
        ("n % 0", None),
        ("n[0]", None),
        ("n.__class__", None),
        ("", None),
        ("True", None),
    ],
)
def test_expressions_have_their_size(text: str, size: int | None) -> None:
    assert dims.size(text, {"n": 6, "m": 4, "x.45_dim_1": 3}) == size


def test_a_name_wins_over_what_it_says() -> None:
    assert dims.size("n + 1", {"n + 1": 5, "n": 1}) == 5


@pytest.mark.parametrize("text", ["9**9**9**9", "n**999999", "(" * 150, "-" * 199 + "n", "9" * 199 + "*n", "n" * 10**6])
def test_hostile_text_has_no_size_and_does_not_hang(text: str) -> None:
    assert dims.size(text, {"n": 3}) in (None, -3)
