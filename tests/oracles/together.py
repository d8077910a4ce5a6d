"""Triton's interpreter with all programs of a launch under way at the same time.

It runs programs one after another, so that none could wait for another. Here each has a thread, of
which one at a time runs, until it has arrived or waits; whose turn is next is drawn.
"""

from __future__ import annotations

import inspect
import itertools
import random
import threading
from collections.abc import Callable
from typing import Any


class Turns:
    """Threads of which one runs at a time."""

    def __init__(self, seed: int) -> None:
        """Begin without any.

        Args:
            seed: of the draws whose turn it is.
        """
        self.draw = random.Random(seed)
        self.changed = threading.Condition()
        self.waits: dict[int, Callable[[], bool]] = {}
        self.now: int | None = None
        self.failed: list[BaseException] = []

    def run(self, programs: list[Callable[[], None]], turn: Callable[[int], None]) -> None:
        """Run all to their ends.

        Args:
            programs: what each does.
            turn: called with a program's number whenever it goes on.
        """
        self.turn = turn
        threads = [
            threading.Thread(target=self._one, args=(n, program), daemon=True)
            for n, program in enumerate(programs)
        ]
        self.waits = {n: lambda: True for n in range(len(programs))}
        for thread in threads:
            thread.start()
        with self.changed:
            self._choose()
        for thread in threads:
            thread.join(60)
        if not self.failed and any(thread.is_alive() for thread in threads):
            self.failed.append(AssertionError("a program did not end within its minute"))
        if self.failed:
            raise self.failed[0]

    def until(self, ready: Callable[[], bool]) -> None:
        """Let others run until ``ready`` and this program's turn.

        Args:
            ready: whether it can go on.
        """
        with self.changed:
            mine = self.now
            assert mine is not None
            self.waits[mine] = ready
            self._choose()
            self._my_turn(mine)

    def _my_turn(self, mine: int) -> None:
        self.changed.wait_for(lambda: self.now == mine or bool(self.failed))
        if self.failed:
            raise RuntimeError("another program failed")
        self.turn(mine)

    def _choose(self) -> None:
        able = [n for n, ready in self.waits.items() if ready()]
        if self.waits and not able:
            self.failed.append(AssertionError("every program waits: none can go on"))
        # Mostly who ran last, so that one gets ahead of the others as far as it can.
        if self.now not in able or self.draw.random() < 0.2:
            self.now = self.draw.choice(able) if able else None
        self.changed.notify_all()

    def _one(self, mine: int, program: Callable[[], None]) -> None:
        try:
            with self.changed:
                self._my_turn(mine)
            program()
        except BaseException as error:
            self.failed.append(error)
        with self.changed:
            del self.waits[mine]
            self._choose()


def run_together(monkeypatch: Any, module: Any, seed: int = 0) -> list[int]:
    """Run what Triton interprets with all programs at the same time; return how many there were.

    Args:
        monkeypatch: pytest's.
        module: whose kernels call ``arrive`` and ``wait``.
        seed: of the draws whose turn it is.
    """
    from triton.runtime import interpreter

    ran: list[int] = []
    turns: list[Turns] = []

    def call(executor: Any, *args: Any, **kwargs: Any) -> None:
        kwargs = {name: value for name, value in kwargs.items() if name in executor.arg_names}
        scope = interpreter._patch_lang(executor.fn)
        try:
            given = inspect.getcallargs(executor.fn, *args, **kwargs)
            given = {
                name: value if name in executor.constexprs else interpreter._implicit_cvt(value)
                for name, value in given.items()
            }
            grid = (*executor.grid, 1, 1)[:3]
            places = list(itertools.product(*map(range, grid)))
            builder = interpreter.interpreter_builder
            builder.set_grid_dim(*grid)
            ran.append(len(places))
            turns.append(Turns(seed + len(ran)))
            turns[-1].run(
                [lambda: executor.fn(**given)] * len(places),
                lambda n: builder.set_grid_idx(*places[n]),
            )
        finally:
            if scope is not None:  # before Triton 3.5 what is patched stays so
                scope.restore()

    def number(value: Any) -> int:
        return int(value.handle.data[0])

    def arrive(counter: Any) -> None:
        own_arrive(counter)
        turns[-1].until(lambda: True)

    def wait(counter: Any, arrivals: Any, patience: Any, interpreted: Any) -> None:
        turns[-1].until(lambda: number(module.tl.load(counter)) >= number(arrivals))
        own_wait(counter, arrivals, patience, interpreted)

    own_arrive, own_wait = module.arrive, module.wait
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", call)
    monkeypatch.setattr(module, "arrive", arrive)
    monkeypatch.setattr(module, "wait", wait)
    return ran
