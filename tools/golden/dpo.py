"""Writes tests/golden/dpo/updates.json: what TRL's DPOTrainer says of the same pairs, update after update.

Loss and metrics are those of TRL's own `DPOTrainer._compute_loss`. Around it stands a torch loop that updates a small model: masters learn by
AdamW, their bf16 roundings compute. All is float64. tests/golden/dpo/README.md says what the file holds.

    pip install torch torchvision transformers trl && python tools/golden/dpo.py
"""

import json
import pathlib
import types
from collections import defaultdict

import model as golden_model
import torch
import transformers
import trl
from trl import DPOTrainer
from updates import Masters, rounded

ROOT = pathlib.Path(__file__).parents[2] / "tests/golden"
CHECKPOINT = "qwen2_5_vl_untied_flat"
TEXT_TOKENS = 190
PAIRS = 5
SETTINGS = {
    "learning_rates": [1e-3, 8e-4, 5e-4],
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
}
CASES = [
    {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0},
    {"beta": 0.5, "loss_type": "sigmoid", "label_smoothing": 0.1},
    {"beta": 0.2, "loss_type": "ipo", "label_smoothing": 0.0},
]
METRICS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"]


def draw_pairs(generator):
    """Prompts with two completions of random tokens; some have an observation inside, which is not learned."""
    below = lambda bound: torch.randint(0, bound, (1,), generator=generator).item()
    words = lambda count: torch.randint(0, TEXT_TOKENS, (count,), generator=generator).tolist()

    def completion():
        own, observed, rest = 3 + below(6), below(2) * (2 + below(3)), 2 + below(6)
        return {"token_ids": words(own + observed + rest), "learned": [1] * own + [0] * observed + [1] * rest}

    # A long prompt is one that a pack computes once.
    return [
        {"prompt": words(20 if number % 2 == 0 else 4 + below(4)), "chosen": completion(), "rejected": completion()}
        for number in range(PAIRS)
    ]


def sequences(pairs):
    """As TRL's batch is: all chosen, then all rejected."""
    return [(pair["prompt"], pair[side]) for side in ("chosen", "rejected") for pair in pairs]


def padded(rows, dtype=torch.long):
    width = max(len(row) for row in rows)
    return torch.tensor([list(row) + [0] * (width - len(row)) for row in rows], dtype=dtype)


def logprobs_of(model, pairs):
    """float [2 pairs, width - 1]: log-prob of each learned token; 0 elsewhere."""
    rows = []
    for prompt, completion in sequences(pairs):
        ids = torch.tensor([prompt + completion["token_ids"]])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": torch.zeros_like(ids),
        }
        logits = model(**inputs, use_cache=False).logits[0, :-1]
        logps = torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])[:, 0]
        learned = torch.tensor([0] * len(prompt) + completion["learned"], dtype=logps.dtype)[1:]
        rows.append(logps * learned)
    width = max(len(row) for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])


class FusedModel:
    """What `_compute_loss` calls: gives log-probs in place of logits."""

    training = True

    def __init__(self, model, pairs):
        self.model, self.pairs = model, pairs

    def __call__(self, **inputs):
        log_probs = logprobs_of(self.model, self.pairs)
        none = torch.zeros_like(log_probs)
        return types.SimpleNamespace(log_probs=log_probs, entropy=none, mean_logits=none, is_top1=none.bool())


class OneProcess:
    device = "cpu"

    def gather(self, values):
        return values

    gather_for_metrics = gather


def trainer_of(case, model):
    """A DPOTrainer with no more than `_compute_loss` reads."""
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer.model = model
    trainer.accelerator = OneProcess()
    trainer.args = types.SimpleNamespace(gradient_checkpointing_kwargs=None)
    trainer.aux_loss_enabled = False
    trainer.ld_alpha = None
    trainer.precompute_ref_logps = True
    trainer.f_divergence_type = "reverse_kl"
    trainer.loss_types, trainer.loss_weights = [case["loss_type"]], [1.0]
    trainer.use_weighting = False
    trainer.beta = case["beta"]
    trainer.label_smoothing = 0.0
    trainer._metrics = {"train": defaultdict(list)}
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    return trainer


def inputs_of(pairs, reference):
    ids = padded([prompt + completion["token_ids"] for prompt, completion in sequences(pairs)])
    chosen, rejected = reference.sum(dim=1).chunk(2)
    return {
        "input_ids": ids,
        "attention_mask": padded([[1] * (len(p) + len(c["token_ids"])) for p, c in sequences(pairs)]),
        "completion_mask": padded([[0] * len(p) + c["learned"] for p, c in sequences(pairs)]),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }


def swapped(pairs):
    return [{"prompt": pair["prompt"], "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]


def loss_of(case, model, pairs, reference):
    """TRL's loss and metrics. Its `sigmoid` has no label smoothing: the smoothed loss is the mean of that of the pairs and that of the pairs the wrong
    way round (Mitchell 2023)."""
    trainer = trainer_of(case, FusedModel(model, pairs))
    loss = trainer._compute_loss(trainer.model, inputs_of(pairs, reference), False)
    metrics = {name: trainer._metrics["train"][name][-1] for name in METRICS}
    smoothing = case["label_smoothing"]
    if smoothing > 0.0:
        wrong, turned = swapped(pairs), torch.cat(list(reversed(reference.chunk(2))))
        trainer = trainer_of(case, FusedModel(model, wrong))
        loss = (1.0 - smoothing) * loss + smoothing * trainer._compute_loss(trainer.model, inputs_of(wrong, turned), False)
    return loss, metrics


def updates_of(case, folder, pairs):
    model = golden_model.load(folder).double()
    with torch.no_grad():
        reference = logprobs_of(model, pairs)
    masters = Masters(model, SETTINGS)
    updates = []
    for rate in SETTINGS["learning_rates"]:
        model.zero_grad(set_to_none=True)
        loss, metrics = loss_of(case, model, pairs, reference)
        loss.backward()
        norm = masters.step(rate)
        updates.append({"loss": loss.item(), "grad_norm": norm, "metrics": metrics})
    return updates


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    pairs = draw_pairs(torch.Generator().manual_seed(9))
    folder = ROOT / "model" / CHECKPOINT
    cases = []
    for case in CASES:
        cases.append({**case, "updates": [rounded(update) for update in updates_of(case, folder, pairs)]})
        print(case, *cases[-1]["updates"], sep="\n  ")
    golden = {
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
        "checkpoint": CHECKPOINT,
        "settings": SETTINGS,
    }
    pairs, cases = (",\n".join(json.dumps(entry) for entry in entries) for entries in (pairs, cases))
    path = ROOT / "dpo/updates.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden)[:-1] + f', "pairs": [\n{pairs}\n], "cases": [\n{cases}\n]}}\n')


if __name__ == "__main__":
    main()
