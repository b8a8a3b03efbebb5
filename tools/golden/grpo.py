"""Writes tests/golden/grpo/updates.json: what TRL's GRPOTrainer says of the same completions, update after update.

The loss, the KL divergence and the clip shares are those of TRL's own `GRPOTrainer._compute_loss`; the advantages follow its
`_generate_and_score_completions`. Around it stands a torch loop that updates a small model: masters learn by AdamW, their bf16 roundings
compute. All is float64, so that rounding decides no weight near a border of bf16. tests/golden/grpo/README.md says what the file holds.

    pip install torch transformers trl && python tools/golden/grpo.py
"""

import copy
import json
import pathlib
import types
from collections import defaultdict

import model as golden_model
import torch
import transformers
import trl
from trl import GRPOTrainer
from trl.trainer.utils import nanstd
from updates import Masters, rounded

ROOT = pathlib.Path(__file__).parents[2] / "tests/golden"
CHECKPOINT = "qwen2_5_vl_untied_flat"
TEXT_TOKENS = 190
SETTINGS = {
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    # CISPO's largest ratio, which TRL calls epsilon_high too.
    "cispo_epsilon_high": 1.1,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "temperature": 0.9,
    "max_completion_length": 24,
    # Of the iterations of one step.
    "learning_rates": [1e-3, 8e-4],
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
}
# None is a completion without a reward. The first group teaches, the second has equal rewards, the third teaches, the fourth has equal
# rewards beside unscored completions.
REWARDS = [[1.0, 0.0, 0.5, 1.5], [0.75, 0.75, 0.75, 0.75], [1.0, None, 0.0, 1.0], [None, 0.5, None, 0.5]]
# Group and place of completions that ran out of tokens.
TRUNCATED = [(0, 2), (1, 0), (2, 3)]
CASES = [
    {"loss_type": loss_type, "beta": beta, "scale_rewards": "none" if loss_type == "dr_grpo" else "group",
     "kl_zero_temperature_tokens": zero}
    for loss_type in ["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo"]
    for beta, zero in [(0.0, False), (0.1, False), (0.1, True)]
] + [
    # TRL's ratio of a sequence counts tokens that have a divergence only; GSPO's does not.
    {"loss_type": "gspo", "beta": beta, "scale_rewards": "batch", "kl_zero_temperature_tokens": False}
    for beta in [0.0, 0.1]
] + [
    {"loss_type": "grpo", "beta": 0.1, "scale_rewards": "batch", "kl_zero_temperature_tokens": False, "delta": 1.32},
    {"loss_type": "grpo", "beta": 0.0, "scale_rewards": "group", "kl_zero_temperature_tokens": False, "entropy_coef": 0.05},
    {"loss_type": "dapo", "beta": 0.1, "scale_rewards": "group", "kl_zero_temperature_tokens": False, "entropy_coef": 0.05},
    # One update: the mask is made of the entropies that tokens were sampled with, and TRL's of the entropies now.
    {"loss_type": "grpo", "beta": 0.1, "scale_rewards": "group", "kl_zero_temperature_tokens": False,
     "entropy_coef": 0.05, "top_entropy_quantile": 0.3, "count": 1},
]


# ---- completions ----


def draw_completions(generator):
    """Groups of completions with random tokens: the model's own, observations among them, some drawn at temperature 0."""
    below = lambda bound: torch.randint(0, bound, (1,), generator=generator).item()
    words = lambda count: torch.randint(0, TEXT_TOKENS, (count,), generator=generator).tolist()
    groups = []
    for number, rewards in enumerate(REWARDS):
        completions = []
        for place, reward in enumerate(rewards):
            own, observed, rest = 4 + below(5), below(2) * (2 + below(3)), 3 + below(5)
            is_own = [1] * own + [0] * observed + [1] * rest
            # Two tokens before an observation, the last of its call, are drawn at temperature 0.
            at_zero = [int(observed > 0 and own - 2 <= i < own) for i in range(len(is_own))]
            completions.append({
                "token_ids": words(len(is_own)),
                "own": is_own,
                "zero_temperature": at_zero,
                "truncated": (number, place) in TRUNCATED,
                "reward": reward,
            })
        # A long prompt is one that the engine computes once for its group.
        groups.append({"prompt": words(20 if number == 0 else 5 + below(4)), "completions": completions})
    return groups


def members(groups):
    return [(group["prompt"], completion) for group in groups for completion in group["completions"]]


def padded(rows, width):
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


# ---- the model ----


def logprobs_of(model, groups, width):
    """float [completions, width]: log-prob at the token's temperature over the tokens that can be drawn, and entropy at temperature 1; 0 behind the end."""
    logps, entropies = [], []
    for prompt, completion in members(groups):
        ids = torch.tensor([prompt + completion["token_ids"]])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": torch.zeros_like(ids),
        }
        logits = model(**inputs, use_cache=False).logits[0, len(prompt) - 1 : -1]
        at_zero = torch.tensor(completion["zero_temperature"], dtype=torch.float64)
        temperatures = SETTINGS["temperature"] + at_zero * (1.0 - SETTINGS["temperature"])
        # Placeholders of images and videos are never drawn, so the distribution at a temperature leaves them out.
        drawable = logits.clone()
        drawable[:, [model.config.image_token_id, model.config.video_token_id]] = -torch.inf
        scaled = torch.log_softmax(drawable / temperatures[:, None], dim=-1)
        plain = torch.log_softmax(logits, dim=-1)
        fill = (0, width - logits.shape[0])
        logps.append(torch.nn.functional.pad(scaled.gather(1, ids[0, len(prompt) :, None])[:, 0], fill))
        entropies.append(torch.nn.functional.pad(-(plain.exp() * plain).sum(-1), fill))
    return torch.stack(logps), torch.stack(entropies)


# ---- TRL ----


def advantages_of(rewards, scale):
    """As `_generate_and_score_completions` has them with multi_objective_aggregation = "sum_then_normalize"."""
    grouped = rewards.view(-1, len(REWARDS[0]))
    mean = torch.nanmean(grouped, dim=1, keepdim=True)
    std = nanstd(grouped, dim=1)[:, None] if scale == "group" else nanstd(rewards)
    advantages = (grouped - mean).view(-1)
    if scale != "none":
        advantages = advantages / (std.expand_as(grouped).reshape(-1) + 1e-4)
    return torch.nan_to_num(advantages, nan=0.0)


class OneProcess:
    """What `_compute_loss` asks of an accelerator, for one process."""

    num_processes = 1
    sync_gradients = True

    def gather(self, values):
        return values

    def reduce(self, values, reduction):
        return values

    def pad_across_processes(self, values, dim, pad_index):
        return values


def trainer_of(case, model, groups, width):
    """A GRPOTrainer with no more than `_compute_loss` reads; its log-probs come from `logprobs_of`."""
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.model = model
    trainer.accelerator = OneProcess()
    trainer.args = types.SimpleNamespace(
        use_bias_correction_kl=False, delta=case.get("delta"), steps_per_generation=1,
        sapo_temperature_pos=SETTINGS["sapo_temperature_pos"], sapo_temperature_neg=SETTINGS["sapo_temperature_neg"])
    trainer.loss_type = "grpo" if case["loss_type"] == "gspo" else case["loss_type"]
    trainer.beta = case["beta"]
    highest = "cispo_epsilon_high" if case["loss_type"] == "cispo" else "epsilon_high"
    trainer.epsilon_low, trainer.epsilon_high = SETTINGS["epsilon"], SETTINGS[highest]
    trainer.max_completion_length = SETTINGS["max_completion_length"]
    trainer.importance_sampling_level = "sequence" if case["loss_type"] == "gspo" else "token"
    trainer.off_policy_mask_threshold = None
    trainer.use_vllm = False
    trainer.aux_loss_enabled = False
    trainer.entropy_coef = case.get("entropy_coef", 0.0)
    trainer._entropy_bonus_enabled = trainer.entropy_coef > 0.0
    trainer.use_adaptive_entropy = False
    trainer.current_gradient_accumulation_steps = 1
    trainer._metrics = {"train": defaultdict(list)}
    trainer.top_entropy_quantile = case.get("top_entropy_quantile", 1.0)
    trainer._get_per_token_logps_and_entropies = lambda model, ids, *rest, **options: (
        *logprobs_of(model, groups, width), None)
    return trainer


def inputs_of(case, groups, width, old, reference):
    all_members = members(groups)
    completions = [completion for _, completion in all_members]
    at_zero = padded([completion["zero_temperature"] for completion in completions], width)
    own = padded([completion["own"] for completion in completions], width)
    # Tokens at temperature 0 are in the loss only where they have a KL divergence.
    mask = own if case["kl_zero_temperature_tokens"] else own * (1 - at_zero)
    is_truncated = torch.tensor([completion["truncated"] for completion in completions])
    mask = mask * (~is_truncated)[:, None].int()
    rewards = torch.tensor(
        [float("nan") if completion["reward"] is None else completion["reward"] for completion in completions])
    prompts = padded([prompt for prompt, _ in all_members], max(len(prompt) for prompt, _ in all_members))
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": padded([completion["token_ids"] for completion in completions], width),
        "completion_mask": mask,
        # TRL takes an advantage for each token too: tokens at temperature 0 have none.
        "advantages": advantages_of(rewards, case["scale_rewards"])[:, None] * (1 - at_zero),
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }


# ---- the loop ----


def clip_shares(case, metrics):
    """Shares of tokens whose ratio was clipped. TRL's of GSPO are of sequences; those under a mask by entropy count what the mask leaves out; SAPO has no clip."""
    if "top_entropy_quantile" in case:
        return {}
    match case["loss_type"]:
        case "cispo":
            return {"clip_low": 0.0, "clip_high": metrics["cispo_clip_ratio"][-1]}
        case "sapo":
            return {"clip_low": 0.0, "clip_high": 0.0}
        case "gspo":
            return {}
        case _:
            return {"clip_low": metrics["clip_ratio/low_mean"][-1], "clip_high": metrics["clip_ratio/high_mean"][-1]}


def updates_of(case, folder, groups, width, old):
    model = golden_model.load(folder).double()
    with torch.no_grad():
        reference, _ = logprobs_of(copy.deepcopy(model), groups, width)
    masters = Masters(model, SETTINGS)
    inputs = inputs_of(case, groups, width, old, reference)
    trainer = trainer_of(case, model, groups, width)
    updates = []
    for rate in SETTINGS["learning_rates"][: case.get("count", 2)]:
        model.zero_grad(set_to_none=True)
        loss = trainer._compute_loss(model, inputs)
        loss.backward()
        norm = masters.step(rate)
        metrics = trainer._metrics["train"]
        updates.append({
            "loss": loss.item(),
            "kl": metrics["kl"][-1] if case["beta"] > 0.0 else None,
            **clip_shares(case, metrics),
            "grad_norm": norm,
        })
    return updates


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(5)
    groups = draw_completions(generator)
    folder = ROOT / "model" / CHECKPOINT
    width = max(len(completion["token_ids"]) for _, completion in members(groups))
    with torch.no_grad():
        old, entropies = logprobs_of(golden_model.load(folder).double(), groups, width)
        # The weights that drew them were others: ratios are clipped from the first update on.
        old = old + 0.8 * (torch.rand(old.shape, generator=generator) - 0.5)
    for (_, completion), row, of_row in zip(members(groups), old, entropies):
        count = len(completion["token_ids"])
        completion["old_logprobs"] = [rounded(value) for value in row[:count].tolist()]
        completion["entropies"] = [rounded(value) for value in of_row[:count].tolist()]
    cases = []
    for case in CASES:
        cases.append({**case, "updates": [rounded(update) for update in updates_of(case, folder, groups, width, old)]})
        print(case, *cases[-1]["updates"], sep="\n  ")
    golden = {
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
        "checkpoint": CHECKPOINT,
        "settings": SETTINGS,
    }
    groups, cases = (",\n".join(json.dumps(entry) for entry in entries) for entries in (groups, cases))
    path = ROOT / "grpo/updates.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden)[:-1] + f', "groups": [\n{groups}\n], "cases": [\n{cases}\n]}}\n')


if __name__ == "__main__":
    main()
