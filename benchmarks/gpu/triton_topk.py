"""A rival: softmax + top-k in one read of the logits, as one would write it in Triton.

Each program walks over its part of a row with a running maximum, sum and the k best so far; a block without anything
better than the k-th best is only looked at. Few rows are split into parts, which a second kernel merges.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

# Programs that keep the device busy, and the blocks of a row and warps to choose among.
PROGRAMS = 528
CHOICES: Sequence[tuple[int, int]] = ((2048, 4), (4096, 8), (8192, 16))
# Below every key.
_LOWEST = tl.constexpr(-(2**63))


@triton.jit
def _ordered(x):
    """Return integers that rank as the numbers do."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _key(x, index):
    """Return a key that ranks by value, then by lowest index."""
    return (_ordered(x).to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def _write(best, top, total, values, indices, row, K: tl.constexpr, k, WITH_SUM: tl.constexpr):
    ordered = (best >> 32).to(tl.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    x = bits.to(tl.float32, bitcast=True)
    if WITH_SUM:
        x = (x - top) - tl.log(total)
    at = tl.arange(0, K)
    tl.store(values + row * k + at, x, mask=at < k)
    tl.store(indices + row * k + at, 0x7FFFFFFF - (best & 0x7FFFFFFF), mask=at < k)


@triton.jit
def _part(
    logits,
    values,
    indices,
    keys,
    tops,
    totals,
    width,
    part,
    k,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    WITH_SUM: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    end = tl.minimum((split + 1) * part, width)
    best = tl.full([K], _LOWEST, tl.int64)
    kth = tl.min(best, 0)
    top = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in range(split * part, end, BLOCK):
        index = start + tl.arange(0, BLOCK)
        x = tl.load(logits + row * width + index, mask=index < end, other=float("-inf")).to(tl.float32)
        highest = tl.max(x, 0)
        if WITH_SUM:
            raised = tl.maximum(top, highest)
            total = total * tl.exp(top - raised) + tl.sum(tl.exp(x - raised), 0)
            top = raised
        if _ordered(highest).to(tl.int64) > (kth >> 32):
            found = tl.topk(_key(x, index), K)
            best = tl.topk(tl.cat(best, found, can_reorder=True), K)
            kth = tl.min(best, 0)
    if IS_WHOLE:
        _write(best, top, total, values, indices, row, K, k, WITH_SUM)
    else:
        at = row * tl.num_programs(1) + split
        tl.store(keys + at * K + tl.arange(0, K), best)
        if WITH_SUM:
            tl.store(tops + at, top)
            tl.store(totals + at, total)


@triton.jit
def _merge(keys, tops, totals, values, indices, k, K: tl.constexpr, SPLITS: tl.constexpr, WITH_SUM: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    best = tl.topk(tl.load(keys + row * SPLITS * K + tl.arange(0, SPLITS * K)), K)
    top = tl.full([], 0.0, tl.float32)
    total = tl.full([], 1.0, tl.float32)
    if WITH_SUM:
        part = row * SPLITS + tl.arange(0, SPLITS)
        each = tl.load(tops + part)
        top = tl.max(each, 0)
        total = tl.sum(tl.load(totals + part) * tl.exp(each - top), 0)
    _write(best, top, total, values, indices, row, K, k, WITH_SUM)


def softmax_topk(
    logits: torch.Tensor, k: int, with_sum: bool, choice: tuple[int, int] = CHOICES[1]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest and their indices; with a sum, log-probabilities. Finite logits [rows, width] only."""
    rows, width = logits.shape
    block, warps = choice
    padded = max(triton.next_power_of_2(k), 2)
    splits = 1
    while splits * 2 * rows <= PROGRAMS and splits * 2 * block <= width + block and splits < 64:
        splits *= 2
    part = triton.cdiv(triton.cdiv(width, splits), 128) * 128
    values = torch.empty(rows, k, device=logits.device)
    indices = torch.empty(rows, k, dtype=torch.int64, device=logits.device)
    keys = torch.empty(rows * splits * padded, dtype=torch.int64, device=logits.device)
    tops, totals = torch.empty(2, rows * splits, device=logits.device)
    common = {"K": padded, "WITH_SUM": with_sum, "num_warps": warps}
    _part[(rows, splits)](
        logits, values, indices, keys, tops, totals, width, part, k, BLOCK=block, IS_WHOLE=splits == 1, **common
    )
    if splits > 1:
        _merge[(rows,)](keys, tops, totals, values, indices, k, SPLITS=splits, **common)
    return values, indices
