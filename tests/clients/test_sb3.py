"""sb3-contrib's RecurrentPPO: its own rollout and its own loss, traced in a callback's stead."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import throughtime as tt

from .checks import client, judged, terms_sum_up

gymnasium = client("gymnasium")
np = client("numpy")
sb3 = client("stable_baselines3", "sb3_contrib")
pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, WAIT = 32, 6


class Recall(gymnasium.Env):
    """A cue at an episode's first step, asked for at its last, WAIT steps later."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.left = int(self.np_random.integers(2)), WAIT
        return self.observe(first=True), {}

    def observe(self, first=False):
        return np.array([(2 * self.cue - 1) * first, self.left == 0], np.float32)

    def step(self, action):
        done = self.left == 0
        reward = float(done and int(action) == self.cue)
        self.left -= 1
        return self.observe(), reward, done, False, {}


def algorithm(**policy):
    model = sb3.RecurrentPPO(
        "MlpLstmPolicy", Recall(), n_steps=STEPS, batch_size=STEPS, n_epochs=1, seed=0,
        device="cpu", policy_kwargs={"lstm_hidden_size": 16, "net_arch": [16], **policy},
    )  # fmt: skip
    model.learn(2 * STEPS)
    return model


def loss_of(model, data):
    """Return the loss that RecurrentPPO.train computes from a minibatch, and by step."""
    values, log_prob, entropy = model.policy.evaluate_actions(
        data.observations, data.actions.long().flatten(), data.lstm_states, data.episode_starts
    )
    mask = data.mask > 1e-8
    ratio = torch.exp(log_prob - data.old_log_prob)
    clipped = torch.clamp(ratio, 1 - 0.2, 1 + 0.2)
    policy = -torch.min(data.advantages * ratio, data.advantages * clipped)
    value = functional.mse_loss(data.returns, values.flatten(), reduction="none")
    each = policy + model.ent_coef * -entropy + model.vf_coef * value
    return torch.where(mask, each, 0) / mask.sum(), mask


@pytest.mark.parametrize("critic", [True, False])
def test_its_update_is_one_run_a_layer(critic, tmp_path):
    model = algorithm(enable_critic_lstm=critic)
    data = next(model.rollout_buffer.get(STEPS))
    with tt.trace(model.policy) as trace:
        each, mask = loss_of(model, data)
    print(each.shape, data.observations.shape, data.episode_starts, data.lstm_states.pi[0].shape, mask.shape)
    flow = trace.flow(each)
    print(flow, flow.skipped)
    for n, f in flow.items(): print(n, f.T, f.B, f.cuts, type(f))
