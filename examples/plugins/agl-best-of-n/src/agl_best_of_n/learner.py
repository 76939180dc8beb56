"""Learner: cross-entropy on what kept rollouts sampled, by AdamW; rows go through the model one by one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from agl import Row
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer


class Learner:
    """Model, tokenizer and optimiser. `folder` is a model's, or one that `save` wrote, which brings back all three."""

    def __init__(self, folder: str | Path, lr: float) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        # It stays in evaluation mode: this very module also samples, and dropout would set the two apart.
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
        if (saved := Path(folder) / "optimizer.pt").exists():
            self.optimizer.load_state_dict(torch.load(saved, map_location=device, weights_only=True))

    def save(self, folder: Path) -> None:
        """Write all that a run goes on with; the folder serves as a model, too."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")

    def update(self, rows: Sequence[Row]) -> dict[str, float]:
        """One optimiser step on all rows together: a rollout weighs 1 / rollouts, however it is cut into rows."""
        tokens = Counter(row.rollout_id for row in rows for trained in row.mask if trained)
        self.optimizer.zero_grad()
        total = 0.0
        for row in rows:
            loss = nll(self.model, row) / (len(tokens) * tokens[row.rollout_id])
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, error_if_nonfinite=True)
        self.optimizer.step()
        return {"loss": total, "grad_norm": norm.item()}


def nll(model: Any, row: Row) -> Tensor:
    """() sum of -log p, in nats, over the tokens that trained calls of the row sampled."""
    ids, mask = torch.tensor(row.token_ids, device=model.device), torch.tensor(row.mask, device=model.device)  # (S,), (S,)
    logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0, mask[1:]]  # (N, V)
    return nn.functional.cross_entropy(logits, ids[mask], reduction="sum")
