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
STEPS, WAIT = 64, 12


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
    """Return the loss that RecurrentPPO.train computes from a minibatch, by step."""
    values, log_prob, entropy = model.policy.evaluate_actions(
        data.observations, data.actions.long().flatten(), data.lstm_states, data.episode_starts
    )
    mask = data.mask > 1e-8
    ratio = torch.exp(log_prob - data.old_log_prob)
    clipped = torch.clamp(ratio, 1 - 0.2, 1 + 0.2)
    policy = -torch.min(data.advantages * ratio, data.advantages * clipped)
    value = functional.mse_loss(data.returns, values.flatten(), reduction="none")
    # One loss a step, summed over the sequences that the buffer was cut into at episodes' starts.
    each = policy + model.ent_coef * -entropy + model.vf_coef * value
    each = torch.where(mask, each, 0) / mask.sum()
    return each.reshape(data.lstm_states.pi[0].shape[1], -1).sum(0)


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize("critic", [True, False])
def test_its_update_is_one_run_a_layer(critic, convert, tmp_path):
    model = algorithm(enable_critic_lstm=critic)
    data = next(model.rollout_buffer.get(STEPS))
    plain = loss_of(model, data)
    if convert:
        tt.convert(model.policy)
    with tt.trace(model.policy) as trace:
        losses = loss_of(model, data)
    torch.testing.assert_close(losses, plain)
    flow = trace.flow(losses)
    assert list(flow) == ["lstm_actor.l0", "lstm_critic.l0"][: 1 + critic] and not flow.skipped
    rows = data.lstm_states.pi[0].shape[1]
    for layer in flow.values():  # swept in one piece, though it was called step by step
        assert type(layer) is tt.LayerFlow
        assert (layer.T, layer.B, layer.S, layer.cuts) == (WAIT + 1, rows, 32, ())
    terms_sum_up(flow, model.policy, losses, list(flow))
    # Forget gates of about one half: what the end would say to the cue is below 1 % on its way.
    assert set(judged(flow, tmp_path).values()) == {"VANISHING"}
    assert flow["lstm_actor.l0"].horizon() < WAIT
    model.learn(2 * STEPS)  # and it trains on


def test_a_row_of_several_episodes_is_one_run_with_zeros_between_them():
    model = algorithm(enable_critic_lstm=False)
    data = next(model.rollout_buffer.get(STEPS))
    starts = torch.zeros(21)
    starts[[7, 14]] = 1  # the buffer cuts there; whoever calls the policy need not
    state = tuple(torch.zeros(1, 1, 16) for _ in range(2))
    with tt.trace(model.policy) as trace:
        distribution, _ = model.policy.get_distribution(data.observations[:21], state, starts)
        losses = -distribution.log_prob(data.actions[:21].long().flatten())
    layer = trace.flow(losses, per_row=True)["lstm_actor.l0"]
    assert layer.T == 21 and type(layer) is tt.LayerFlow
    last = layer.norms[20, :, 0]
    assert bool((last[:15] == 0).all()) and bool((last[15:] > 0).all())
