"""Writes tests/golden/grpo/verl.json: what verl's own functions say of random rewards and log-probs.

Advantages are those of verl's estimators, losses those of its policy losses with the derivative that autograd finds, divergences those of
`kl_penalty_forward`. All in float64, of numbers that float32 holds.

    pip install torch "verl==0.9.1" && python tools/golden/policy_losses.py
"""

import json
import pathlib

import numpy as np
import torch
import verl
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig

PATH = pathlib.Path(__file__).parents[2] / "tests/golden/grpo/verl.json"
GROUPS, MEMBERS, WIDTH = 3, 4, 9
EPSILON, EPSILON_HIGH, DELTA = 0.2, 0.28, 1.5
TAU_POS, TAU_NEG = 1.0, 1.05


def floats(values):
    """As a list of numbers that float32 holds."""
    return [float(value) for value in torch.as_tensor(values).to(torch.float32).tolist()]


def draw(generator):
    """Rewards, lengths, log-probs under three weights, advantages: of the same rollouts."""
    rand = lambda *size: torch.rand(*size, generator=generator, dtype=torch.float64)
    count = GROUPS * MEMBERS
    lengths = (1 + (rand(count) * WIDTH).long()).tolist()
    new = -3.0 * rand(count, WIDTH)
    return {
        "rewards": floats(torch.round(rand(count) * 4) / 4),
        "lengths": lengths,
        "new": [floats(row[:length]) for row, length in zip(new, lengths)],
        "old": [floats(row[:length]) for row, length in zip(new + 1.2 * (rand(count, WIDTH) - 0.5), lengths)],
        "reference": [floats(row[:length]) for row, length in zip(new + 1.2 * (rand(count, WIDTH) - 0.5), lengths)],
        "advantages": floats(2.0 * rand(count) - 1.0),
    }


def padded(rows):
    return torch.tensor([row + [0.0] * (WIDTH - len(row)) for row in rows], dtype=torch.float64)


def advantages_of(drawn, mask):
    """By estimator: one for each rollout, the same for all of its tokens."""
    token_level = torch.zeros_like(mask)
    for row, (reward, length) in enumerate(zip(drawn["rewards"], drawn["lengths"])):
        token_level[row, length - 1] = reward
    index = np.repeat(np.arange(GROUPS), MEMBERS)
    of_group = lambda function, **more: function(token_level.clone(), mask, index, **more)[0][:, 0].tolist()
    whitened, _ = core_algos.compute_reinforce_plus_plus_outcome_advantage(token_level, mask, config=AlgoConfig(gamma=1.0))
    return {
        # verl's epsilon is 1e-6; TRL's, which is given, 1e-4.
        "grpo": of_group(core_algos.compute_grpo_outcome_advantage, epsilon=1e-4),
        "dr_grpo": of_group(core_algos.compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=False),
        "rloo": of_group(core_algos.compute_rloo_outcome_advantage),
        "reinforce++": whitened[:, 0].tolist(),
    }


def losses_of(drawn, mask):
    """By loss type, and with dual clip: the loss, and its derivative by each log-prob."""
    config = ActorConfig(
        strategy="fsdp", rollout_n=MEMBERS, ppo_micro_batch_size_per_gpu=1, clip_ratio=EPSILON, clip_ratio_low=EPSILON,
        clip_ratio_high=EPSILON_HIGH, clip_ratio_c=1e9, tau_pos=TAU_POS, tau_neg=TAU_NEG)
    dual = ActorConfig(
        strategy="fsdp", rollout_n=MEMBERS, ppo_micro_batch_size_per_gpu=1, clip_ratio=EPSILON, clip_ratio_low=EPSILON,
        clip_ratio_high=EPSILON_HIGH, clip_ratio_c=DELTA)
    old = padded(drawn["old"])
    advantages = torch.tensor(drawn["advantages"], dtype=torch.float64)[:, None].expand_as(mask)
    found = {}
    for name, loss, mode, settings in [
        ("grpo", "vanilla", "seq-mean-token-mean", config),
        ("dapo", "vanilla", "token-mean", config),
        ("dr_grpo", "vanilla", "seq-mean-token-sum-norm", config),
        ("gspo", "gspo", "seq-mean-token-mean", config),
        ("sapo", "sapo", "seq-mean-token-mean", config),
        ("dual_clip", "vanilla", "seq-mean-token-mean", dual),
    ]:
        new = padded(drawn["new"]).requires_grad_()
        function = core_algos.get_policy_loss_fn(loss)
        value, _ = function(old, new, advantages, mask, loss_agg_mode=mode, config=settings)
        value.backward()
        rows = [row[:length].tolist() for row, length in zip(new.grad, drawn["lengths"])]
        found[name] = {"loss": value.item(), "derivatives": rows}
    return found


def divergences_of(drawn):
    new, reference = padded(drawn["new"]), padded(drawn["reference"])
    rows = lambda kind: core_algos.kl_penalty_forward(new, reference, kind)
    cut = lambda values: [row[:length].tolist() for row, length in zip(values, drawn["lengths"])]
    return {kind: cut(rows(kind)) for kind in ["k1", "k2", "k3"]}


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def main():
    generator = torch.Generator().manual_seed(3)
    cases = []
    for _ in range(4):
        drawn = draw(generator)
        mask = (torch.arange(WIDTH)[None] < torch.tensor(drawn["lengths"])[:, None]).double()
        cases.append({
            **drawn,
            "of_advantages": rounded(advantages_of(drawn, mask)),
            "of_losses": rounded(losses_of(drawn, mask)),
            "of_divergences": rounded(divergences_of(drawn)),
        })
    golden = {
        "made_by": "tools/golden/policy_losses.py",
        "versions": {"verl": verl.__version__, "torch": torch.__version__},
        "members": MEMBERS,
        "width": WIDTH,
        "epsilon": EPSILON,
        "epsilon_high": EPSILON_HIGH,
        "delta": DELTA,
        "sapo_temperature_pos": TAU_POS,
        "sapo_temperature_neg": TAU_NEG,
    }
    cases = ",\n".join(json.dumps(case) for case in cases)
    PATH.write_text(json.dumps(golden)[:-1] + f', "cases": [\n{cases}\n]}}\n')


if __name__ == "__main__":
    main()
