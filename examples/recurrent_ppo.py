"""Recurrent PPO on a task that needs memory, with episodes that end inside a rollout.

A cue is shown at the first step of an episode and asked for at its last, so an agent without
memory is right half of the time.

`done` and `reset=` are one step apart. `done[t]` is what the environment says *after* action t:
the episode is over, and the next observation begins another. `reset[t]` zeroes the state *before*
step t reads its observation. So `reset[t] = done[t-1]`, and a rollout's first reset is the last
`done` of the rollout before. Passing `done` itself would wipe the memory just before the step that
the whole episode leads up to; the example shows that too.

Run: python examples/recurrent_ppo.py
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import throughtime as tt

ROWS, STEPS, UPDATES, EPOCHS = 32, 24, 40, 4
DISCOUNT, SMOOTHING, CLIP = 0.95, 0.9, 0.2


class Recall:
    """Environments side by side: a cue of +1 or −1, a wait of 1 to 4 steps, then "which was it?".

    An observation is (cue, asked). Answering right is worth 1, all else 0.
    """

    def __init__(self, rows: int, generator: torch.Generator) -> None:
        """Begin an episode in every row."""
        self.rows, self.generator = rows, generator
        self.cue, self.left = torch.zeros(rows), torch.zeros(rows, dtype=torch.long)
        self.begin(torch.ones(rows, dtype=torch.bool))

    def begin(self, where: Tensor) -> None:
        """Draw new episodes for the rows named."""
        coin = torch.randint(0, 2, (self.rows,), generator=self.generator)
        wait = torch.randint(2, 6, (self.rows,), generator=self.generator)
        self.cue = torch.where(where, 2.0 * coin - 1, self.cue)
        self.left = torch.where(where, wait, self.left)
        self.fresh = where

    def observe(self) -> Tensor:
        """Return (B, 2)."""
        return torch.stack((self.cue * self.fresh, (self.left == 0).float()), 1)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Take actions (B,); give rewards and `done`, both (B,). Rows that are done begin anew."""
        done = self.left == 0
        reward = (done & (action == (self.cue > 0))).float()
        self.left = self.left - 1
        self.begin(done)
        return reward, done


class Agent(nn.Module):
    """Observations (T, B, 2) → logits (T, B, 2) and values (T, B)."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.memory = tt.GRU(2, 16)
        self.policy, self.value = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, x: Tensor, hx: Tensor | None = None, **masks: Tensor):
        """Act from a state on; in a stream hx and reset come from there."""
        h, hx = self.memory(x, hx, **masks)
        return self.policy(h), self.value(h).squeeze(-1), hx


def rollouts(agent: Agent, world: Recall) -> Iterator[dict[str, Tensor]]:
    """Act without end, and give what PPO needs of each rollout, (T, B, ·)."""
    hx, begins = None, torch.zeros(world.rows, dtype=torch.bool)
    while True:
        steps = []
        with torch.no_grad():
            for _ in range(STEPS):
                x = world.observe()
                logits, value, hx = agent(x[None], hx, reset=begins[None])
                action = torch.multinomial(logits[0].softmax(-1), 1, generator=world.generator)[
                    :, 0
                ]
                logp = logits[0].log_softmax(-1).gather(-1, action[:, None])[:, 0]
                reward, done = world.step(action)
                steps.append((x, action, logp, value[0], reward, done, begins))
                begins = done  # the shift: what ended here is reset before the next step
            last = agent(world.observe()[None], hx, reset=begins[None])[1][0]
        names = ("x", "action", "logp", "value", "reward", "done", "begins")
        parts = [torch.stack(part) for part in zip(*steps, strict=True)]
        rollout: dict[str, Tensor] = dict(zip(names, parts, strict=True))
        rollout["advantage"] = advantages(rollout, last)
        yield rollout


def advantages(rollout: dict[str, Tensor], last: Tensor) -> Tensor:
    """Return generalized advantage estimates; here it is `done[t]`, unshifted, that ends a sum."""
    goes_on = 1 - rollout["done"].float()
    after, total, found = last, torch.zeros_like(last), []
    for t in reversed(range(STEPS)):
        surprise = rollout["reward"][t] + DISCOUNT * goes_on[t] * after - rollout["value"][t]
        total = surprise + DISCOUNT * SMOOTHING * goes_on[t] * total
        after = rollout["value"][t]
        found.append(total)
    return torch.stack(found[::-1])


def objective(agent: Agent, part: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return PPO's loss on one rollout, and how the chances of its actions changed."""
    logits, value, _ = agent(part["x"])
    chances = logits.log_softmax(-1)
    ratio = (chances.gather(-1, part["action"][..., None])[..., 0] - part["logp"]).exp()
    gain = (part["advantage"] - part["advantage"].mean()) / (part["advantage"].std() + 1e-8)
    clipped = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
    error = (value - part["advantage"] - part["value"]).pow(2).mean()
    entropy = -(chances.exp() * chances).sum(-1).mean()
    return 0.5 * error - clipped - 0.01 * entropy, ratio.detach()


def train() -> tuple[Agent, list[float]]:
    """Train; give the agent and, for each rollout, the share of episodes answered right."""
    agent, world = Agent(), Recall(ROWS, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(agent.parameters(), 1e-2)
    right = []
    # Every epoch begins from the state that the rollout began with; the last one's is carried on.
    for part in tt.stream(agent, rollouts(agent, world), reset="begins"):
        for epoch in range(EPOCHS):
            loss, ratio = objective(agent, part)
            if not right and not epoch:
                assert (ratio - 1).abs().max() < 1e-4, "learning sees the states that acting saw"
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        right.append(float(part["reward"].sum() / part["done"].sum()))
        if len(right) == UPDATES:
            break
    return agent, right


def compare(agent: Agent) -> tuple[float, float]:
    """Answer with the resets shifted, as they must be, and with `done` itself."""
    world = Recall(200, torch.Generator().manual_seed(1))
    part = next(rollouts(agent, world))
    # At the step that is asked the right action is the sign of the episode's cue.
    cue, cues = torch.zeros(world.rows), []
    for x in part["x"]:
        cue = torch.where(x[:, 0] != 0, x[:, 0], cue)
        cues.append(cue)
    asked = part["x"][..., 1] == 1
    shares = []
    for reset in (part["begins"], part["done"]):
        with torch.no_grad():
            answer = agent(part["x"], reset=reset)[0].argmax(-1)
        shares.append(float((answer == (torch.stack(cues) > 0))[asked].float().mean()))
    return shares[0], shares[1]


def main() -> None:
    """Train and compare."""
    torch.manual_seed(0)
    agent, right = train()
    early, late = sum(right[:5]) / 5, sum(right[-5:]) / 5
    print(f"episodes answered right: {early:.0%} in the first 5 rollouts, {late:.0%} in the last 5")
    assert early < 0.75 and late > 0.95

    shifted, unshifted = compare(agent)
    print(f"the state reset before the step where an episode begins: {shifted:.0%} right")
    print(f"`done` itself as the reset, one step early: {unshifted:.0%}, no better than a guess")
    assert shifted > 0.95 and unshifted < 0.65

    # How far back its own training step looks, and whether anything stands in its way.
    part = next(rollouts(agent, Recall(ROWS, torch.Generator().manual_seed(2))))
    with tt.trace(agent) as trace:
        loss, _ = objective(agent, part)
    flow = trace.flow(loss)
    print(f"\n{flow}")
    assert all(finding.severity == "note" for finding in tt.examine(flow))


if __name__ == "__main__":
    main()
