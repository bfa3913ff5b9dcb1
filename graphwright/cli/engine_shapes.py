"""Profiles in the words of NVIDIA's ``trtexec``: ``--minShapes=ids:1x8 --optShapes=... --maxShapes=...``, repeated."""

import re
from collections.abc import Sequence

from graphwright.errors import UsageError
from graphwright.runtime.bound import Range
from graphwright.runtime.profile import Profile

Shapes = dict[str, tuple[int, ...]]

_PIECE = re.compile(r"""(?:'[^']*'|"[^"]*"|[^,'"])+""")
_ENTRY = re.compile(r"""\s*(?:'([^']+)'|"([^"]+)"|(.+?))\s*[:=]\s*(\d{1,18}(?:x\d{1,18})*)\s*""")
_FORM = "name:1x8,other:1x8"


def profiles(
    texts: Sequence[str], smallest: Sequence[str], best: Sequence[str], largest: Sequence[str]
) -> list[Profile] | None:
    """Return the profiles that the options stand for, or None where none is given.

    ``--profile`` holds graphwright's own text, or a number as in trtexec, which then says whose shapes the next ones
    are: the first of each of the other three options belong to the first number.

    Raises:
        UsageError: both spellings, or options that do not pair up.
        ProfileError: text that is no profile.

    Example:
        >>> [str(each) for each in profiles([], ["ids:1x8"], ["ids:4x64"], ["ids:16x512"])]
        ['ids=1x8:4x64:16x512']
        >>> [str(each) for each in profiles(["n=1:2:4", "n=4:8:16"], [], [], [])]
        ['n=1:2:4', 'n=4:8:16']
    """
    numbers = [int(text) for text in texts if text.strip().isdecimal()]
    own = [text for text in texts if not text.strip().isdecimal()]
    if own and (smallest or best or largest or numbers):
        raise UsageError("--profile", f"{own[0]!r} beside shapes or numbers of trtexec", needed="one of the spellings")
    if own:
        return [Profile.parse(text) for text in own]
    found = _paired(smallest, best, largest)
    if numbers and sorted(numbers) != list(range(len(found))):
        given = ", ".join(map(str, numbers))
        needed = f"0 to {len(found) - 1}, each once" if found else "shapes after it"
        raise UsageError("--profile", f"{given} for {len(found)} profiles", needed=needed)
    ordered = (
        [one for _, one in sorted(zip(numbers, found, strict=True), key=lambda each: each[0])] if numbers else found
    )
    return ordered or None


def _paired(smallest: Sequence[str], best: Sequence[str], largest: Sequence[str]) -> list[Profile]:
    given = {"--min-shapes": smallest, "--opt-shapes": best, "--max-shapes": largest}
    used = {name: texts for name, texts in given.items() if texts}
    if len(used) == 1:
        # As in trtexec: one alone stands for all three.
        (texts,) = used.values()
        used = dict.fromkeys(given, texts)
    if used and (len(used) < 3 or len({len(texts) for texts in used.values()}) > 1):
        counts = ", ".join(f"{name} {len(texts)} times" for name, texts in given.items())
        raise UsageError("shapes", counts, needed="each of the three once a profile, or one of them alone")
    corners = (map(_shapes, used, texts) for texts in zip(*used.values(), strict=True))
    return [_profile(*each) for each in corners]


def _shapes(option: str, text: str) -> Shapes:
    found: Shapes = {}
    for piece in _PIECE.findall(text):
        match = _ENTRY.fullmatch(piece)
        if match is None:
            raise UsageError(option, repr(piece), needed=_FORM)
        name = match[1] or match[2] or match[3]
        if name in found:
            raise UsageError(option, f"{name} twice", needed="each input once")
        found[name] = tuple(map(int, match[4].split("x")))
    if not found or _PIECE.sub("", text).replace(",", "").strip():
        raise UsageError(option, repr(text), needed=_FORM)
    return found


def _profile(smallest: Shapes, best: Shapes, largest: Shapes) -> Profile:
    entries = []
    for name in {**smallest, **best, **largest}:
        corners = [one.get(name) for one in (smallest, best, largest)]
        lacking = [which for which, shape in zip(("min", "opt", "max"), corners, strict=True) if shape is None]
        if lacking:
            raise UsageError(
                "shapes", f"no {' and no '.join(lacking)} shape of {name}", needed="all three of each input"
            )
        shapes = [shape for shape in corners if shape is not None]
        if len({len(shape) for shape in shapes}) > 1:
            raise UsageError("shapes", f"{name} of several ranks", needed="the same rank three times")
        entries.append((name, tuple(Range(*sizes) for sizes in zip(*shapes, strict=True))))
    return Profile((tuple(entries),))
