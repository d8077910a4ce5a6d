"""How the programs of one launch meet between two steps: each says that it has come, and waits.

One counter in memory serves all steps: it only grows, so that nobody has to set it back. It holds
where every program that is waited for runs at the same time, which a cooperative launch ensures.
"""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from .triton_language import part, tl

__all__ = ["PATIENCE", "arrive", "wait"]

# How often a program looks before it gives up, with an error from the device: some ten seconds on
# one, where a look takes about half a microsecond. The interpreter runs the programs one after
# another, so that there who is not there yet never comes.
PATIENCE = 1 << 24


@part
def arrive(counter):
    """Say that this program has come, after all that its threads have stored.

    Args:
        counter: the address of the group's counter, 32 bits, 0 at first.
    """
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release")


@part
def wait(counter, arrivals, PATIENCE: tl.constexpr, INTERPRETED: tl.constexpr):
    """Wait until so many have come; what they stored before is then there to be loaded.

    Args:
        counter: the address of the group's counter.
        arrivals: how many, all steps together.
        PATIENCE: how often to look.
        INTERPRETED: whether the kernel runs in NumPy.
    """
    come = tl.atomic_add(counter, 0, sem="acquire")
    if INTERPRETED:
        assert come >= arrivals, "programs that run one after another cannot meet"
    else:
        looks = 0
        while (come < arrivals) & (looks < PATIENCE):
            come = tl.atomic_add(counter, 0, sem="acquire")
            looks += 1
        # Not `tl.device_assert`: a call in the kernel makes ptxas wait after every product of the
        # tensor cores (its C7510), of which a step has 64 at H = 1024.
        tl.inline_asm_elementwise(
            "{ .reg .pred %late; setp.lt.s32 %late, $1, $2; @%late trap; mov.b32 $0, $1; }",
            "=r,r,r", [come, arrivals], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
        tl.debug_barrier()
