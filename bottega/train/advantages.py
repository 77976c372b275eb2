"""How good each sampled token was, beyond what was to be expected: rewards of answers to numbers per token.

Left out: sampling and scoring (rollout.py), what the numbers do to the policy (objectives/policy.py, objectives/groups.py).

Shapes: G answers of a prompt, T tokens of an answer, S tokens of all answers of a prompt, one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bottega.core.table import options as options_of
from bottega.core.table import resolve

EPS = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sampled:
    """The answers to one prompt. rewards: (G,); lengths: (G,), their sum S; logp, ref_logp, value: (S,), the last two empty where
    nobody asked for them."""

    rewards: np.ndarray
    lengths: np.ndarray
    logp: np.ndarray
    ref_logp: np.ndarray
    value: np.ndarray

    def split(self, numbers_S: np.ndarray) -> list[np.ndarray]:
        """One array an answer."""
        return np.split(numbers_S, np.cumsum(self.lengths)[:-1])

    def spread_out(self, numbers_G: np.ndarray) -> np.ndarray:
        """One number an answer -> the same for each of its tokens, (S,)."""
        return np.repeat(np.asarray(numbers_G, dtype=np.float64), self.lengths)

    def penalty(self, kl: float) -> np.ndarray:
        """-kl (log pi - log pi_ref) per token, (S,); zeros where kl is 0."""
        return -kl * (self.logp - self.ref_logp) if kl else np.zeros(int(self.lengths.sum()))


Advantage = Callable[..., list[dict[str, np.ndarray]]]
"""advantage(prompts, *, kl, options) -> per prompt, arrays (S,): `advantage`, and `return` where there is a value head."""

ADVANTAGES: dict[str, str] = {
    "group": "bottega.train.advantages:group",
    "leave_one_out": "bottega.train.advantages:leave_one_out",
    "batch": "bottega.train.advantages:batch",
    "gae": "bottega.train.advantages:gae",
}


def find(name: str, **given: Any) -> Advantage:
    """The function of the table with its options bound."""
    assert set(given) <= set(options_of(ADVANTAGES[name])), "the recipe's check looks at names"
    return functools.partial(resolve(ADVANTAGES[name]), **given)


def group(prompts: Sequence[Sampled], *, kl: float = 0.0, scale: bool = True) -> list[dict[str, np.ndarray]]:
    """An answer is good if it is better than the others to the same prompt; every token of it has the same share.

    A_i = (r_i - mean(r)) / (std(r) + 1e-8), DeepSeekMath (arXiv 2402.03300) eq. 3 in section 4.1.2, with the population's deviation;
    without `scale` the difference alone, Dr. GRPO (arXiv 2503.20783) section 3.2, for the quotient weighs up prompts that are nearly
    always, or never, answered well.

    Args:
        kl: what a nat of distance from the reference costs, taken off each answer's reward (0: the objective has its own term).

    >>> none = np.zeros(3)
    >>> one = Sampled(rewards=np.array([0.0, 2.0]), lengths=np.array([1, 2]), logp=none, ref_logp=none, value=none)
    >>> group([one])[0]["advantage"].round(3).tolist()  # mean 1, deviation 1
    [-1.0, 1.0, 1.0]
    """
    found = []
    for one in prompts:
        rewards = _with_penalty(one, kl)
        off = rewards - rewards.mean()
        found.append({"advantage": one.spread_out(off / (rewards.std() + EPS) if scale else off)})
    return found


def leave_one_out(prompts: Sequence[Sampled], *, kl: float = 0.05) -> list[dict[str, np.ndarray]]:
    """What was to be expected of an answer is the mean reward of the others to the same prompt (RLOO).

    A_i = r_i - 1/(G-1) sum over j != i of r_j, with r_i = reward - kl log(pi/pi_ref) of the whole answer; Ahmadian et al. 2024
    (arXiv 2402.14740) section 3.3 and eq. 6.

    >>> none = np.zeros(3)
    >>> one = Sampled(rewards=np.array([0.0, 3.0, 6.0]), lengths=np.ones(3, int), logp=none, ref_logp=none, value=none)
    >>> leave_one_out([one])[0]["advantage"].tolist()  # 0 - 4.5, 3 - 3, 6 - 1.5
    [-4.5, 0.0, 4.5]
    """
    found = []
    for one in prompts:
        rewards = _with_penalty(one, kl)
        count = len(rewards)
        found.append({"advantage": one.spread_out(rewards - (rewards.sum() - rewards) / (count - 1))})
    return found


def batch(
    prompts: Sequence[Sampled], *, kl: float = 0.01, gamma: float = 1.0, baseline: bool = False
) -> list[dict[str, np.ndarray]]:
    """What is still to come of a token, whitened over all tokens of the round: PPO without a value head (REINFORCE++).

    A_t = sum over k >= t of gamma^(k-t) (1[k is last] r - kl log(pi/pi_ref)_k), then (A - mean) / std over the batch; Hu 2025
    (arXiv 2501.03262) eq. 5 to 7. With `baseline` the mean reward of the prompt's answers is taken off first (its variant for groups).
    """
    raw = []
    for one in prompts:
        rewards = one.rewards - one.rewards.mean() if baseline else one.rewards
        parts = []
        for reward, costs in zip(rewards, one.split(one.penalty(kl)), strict=True):
            per_token = costs.astype(np.float64)
            per_token[-1:] += reward  # nothing where the answer is masked
            parts.append(_to_come(per_token, gamma))
        raw.append(np.concatenate(parts))
    return [{"advantage": numbers} for numbers in whitened(raw)]


def gae(
    prompts: Sequence[Sampled],
    *,
    kl: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: bool = True,
    whiten_rewards: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Generalised advantage estimates from the value head, and the returns it should predict (PPO).

    The reward of a token is -kl log(pi/pi_ref), plus the answer's reward at its last token (Ziegler et al. 2019, arXiv 1909.08593,
    eq. 2). See `advantages_of`. Advantages are whitened over the round; rewards, where `whiten_rewards` says so, to unit variance
    with their mean kept (Huang et al. 2024, arXiv 2403.17031, details 17 and 18).
    """
    per_token = []
    for one in prompts:
        learned = one.lengths > 0
        rewards = one.penalty(kl).astype(np.float64)
        rewards[(np.cumsum(one.lengths) - 1)[learned]] += one.rewards[learned]
        per_token.append(rewards)
    if whiten_rewards:
        flat = np.concatenate(per_token)
        per_token = [numbers / (flat.std() + EPS) for numbers in per_token]
    raw, returns = [], []
    for one, rewards in zip(prompts, per_token, strict=True):
        pairs = [
            advantages_of(r, v, gamma=gamma, lam=lam)
            for r, v in zip(one.split(rewards), one.split(one.value), strict=True)
        ]
        raw.append(np.concatenate([a for a, _ in pairs]))
        returns.append(np.concatenate([r for _, r in pairs]))
    shown = whitened(raw) if whiten else raw
    return [{"advantage": a, "return": r} for a, r in zip(shown, returns, strict=True)]


def advantages_of(
    rewards_T: np.ndarray, values_T: np.ndarray, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimates of one answer and the returns the value head should predict.

    delta_t = r_t + gamma v_{t+1} - v_t; A_t = sum_k (gamma lam)^k delta_{t+k}; R_t = A_t + v_t. Schulman et al. 2016
    (arXiv 1506.02438) eq. 11 and 16; the value after the last token is 0.

    Args:
        rewards_T, values_T: (T,) per token. gamma: discount. lam: 0 (one step) to 1 (whole answer).

    Returns:
        Advantages (T,) and returns (T,).

    >>> a, r = advantages_of(np.array([0.0, 1.0]), np.array([0.5, 0.5]), gamma=1.0, lam=0.5)
    >>> a.tolist(), r.tolist()  # deltas: 0 + 0.5 - 0.5 = 0, 1 + 0 - 0.5 = 0.5; A_0 = 0 + 0.5 * 0.5
    ([0.25, 0.5], [0.75, 1.0])
    """
    result = np.zeros(len(rewards_T))
    running, next_value = 0.0, 0.0
    for t in reversed(range(len(rewards_T))):
        delta = rewards_T[t] + gamma * next_value - values_T[t]
        running = delta + gamma * lam * running
        result[t], next_value = running, values_T[t]
    return result, result + values_T


def whitened(numbers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays with mean 0 and deviation 1 over all of them together."""
    flat = np.concatenate(list(numbers))
    mean, spread = flat.mean(), flat.std() + EPS
    return [(one - mean) / spread for one in numbers]


def _with_penalty(one: Sampled, kl: float) -> np.ndarray:
    """Each answer's reward less what its distance from the reference costs, (G,)."""
    if not kl:
        return one.rewards.astype(np.float64)
    return one.rewards + np.array([costs.sum() for costs in one.split(one.penalty(kl))])


def _to_come(rewards_T: np.ndarray, gamma: float) -> np.ndarray:
    """sum over k >= t of gamma^(k-t) r_k."""
    result, running = np.zeros(len(rewards_T)), 0.0
    for t in reversed(range(len(rewards_T))):
        running = rewards_T[t] + gamma * running
        result[t] = running
    return result


def needs_reference(found: Mapping[str, Any]) -> bool:
    """Whether the options of an advantage make it compare with the reference."""
    return bool(found.get("kl"))
