"""Updates of a small model as this engine makes them: masters learn by AdamW, their bf16 roundings compute. For dpo.py and grpo.py."""

import torch


class Masters:
    """The masters of all parameters of a model but those of its vision tower, and their optimizer."""

    def __init__(self, model, settings):
        self.max_grad_norm = settings["max_grad_norm"]
        self.trained = [p for name, p in model.named_parameters() if "visual" not in name]
        self.masters = [torch.nn.Parameter(p.detach().clone()) for p in self.trained]
        decays = [master for master in self.masters if master.ndim >= 2]
        rest = [master for master in self.masters if master.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decays, "weight_decay": settings["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
            lr=0.0, betas=(settings["adam_beta1"], settings["adam_beta2"]), eps=settings["adam_epsilon"],
        )

    def step(self, rate):
        """Updates by the gradients that the model's parameters have; their norm before it is clipped."""
        for parameter, master in zip(self.trained, self.masters):
            master.grad = parameter.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(self.trained, self.masters):
                parameter.copy_(master.float().to(torch.bfloat16))
        return norm.item()


def rounded(value):
    """A number, or the numbers of a dictionary, with nine digits."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return float(f"{value:.9g}") if isinstance(value, float) else value
