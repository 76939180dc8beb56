"""Dataset: what VERL's data loader goes through, in AGL's place: indices of tasks. The tasks themselves stay with AGL."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset


class TaskIndices(Dataset):  # pyright: ignore[reportMissingTypeArgument]
    """Rows that name a task by its index.

    Args:
        data_files: `["train:200"]` or `["val:40"]`: which dataset, and how many tasks it has.
        given: what VERL hands to every dataset.
    """

    def __init__(self, data_files: Any, **given: Any) -> None:
        name = data_files if isinstance(data_files, str) else data_files[0]
        self.size = int(name.rpartition(":")[2])

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        # `raw_prompt`, `data_source` and `reward_model` are names that VERL's trainer looks for.
        return {"index": index, "raw_prompt": [], "data_source": "agl", "reward_model": {"style": "agl", "ground_truth": None}}
