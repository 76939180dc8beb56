"""Sampling: one vectorised draw for the whole batch, from a random stream that belongs to each answer alone.

The uniform number of a token is a hash of (seed, choice, position), so an answer does not depend on what else is in the
batch; the draw is by inverse CDF. Log-probabilities are those of the distribution at the requested temperature, before
`top_p` cuts it: what a policy loss at that temperature compares with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Sampling:
    """How to sample the answers of one request."""

    temperature: float = 1.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    max_tokens: int | None = None
    """Longest answer in tokens; None for the engine's default."""
    stop: tuple[str, ...] = ()
    """An answer ends when one of these appears in its text."""
    seed: int | None = None
    n: int = 1
    """Number of answers."""
    top_logprobs: int = 0
    """How many of the most probable tokens to report at each position."""


@dataclass
class Draw:
    """One token for each row of a batch."""

    tokens: Tensor
    """(B,) int64"""
    logprobs: Tensor
    """(B,) float32, natural log, at the row's temperature, before `top_p`."""
    distribution: Tensor
    """(B, V) float32 log-probabilities that `logprobs` was read from."""


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection whose output passes as random."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def stream_key(seed: int, choice: int) -> int:
    """The 64-bit key of one answer's random stream."""
    words = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    words = _mix(words + _GOLDEN) ^ np.array([choice], dtype=np.uint64)
    return int(_mix(words + _GOLDEN)[0])


def uniforms(keys: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(B,) numbers strictly between 0 and 1: the `positions`-th of each stream.

    They have 48 bits, so that multiplying by a sum of probabilities cannot round up to that sum.
    """
    words = _mix(keys + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return ((words >> np.uint64(16)).astype(np.float64) + 0.5) * 2.0**-48


def sample(
    logits: Tensor,
    temperatures: npt.NDArray[np.float32],
    top_p: npt.NDArray[np.float32],
    keys: npt.NDArray[np.uint64],
    positions: npt.NDArray[np.int64],
) -> Draw:
    """Draws one token for each row.

    Args:
        logits: (B, V), any float type.
        temperatures: (B,); 0 for greedy rows, whose log-probabilities are untempered.
        top_p: (B,) in (0, 1].
        keys: (B,) random streams (`stream_key`).
        positions: (B,) number of tokens already sampled in each row.
    """
    greedy = temperatures == 0.0
    scale = torch.from_numpy(np.where(greedy, np.float32(1.0), temperatures)).to(logits.device)  # (B,)
    logp = torch.log_softmax(logits.float() / scale[:, None], dim=-1)  # (B, V)
    if greedy.all():
        tokens = logp.argmax(dim=-1)
    else:
        probs = logp.exp()  # (B, V)
        if (top_p < 1.0).any():
            probs = _nucleus(probs, torch.from_numpy(top_p).to(logits.device))
        cdf = probs.cumsum(dim=-1, dtype=torch.float64)
        draws = torch.from_numpy(uniforms(keys, positions)).to(logits.device)  # (B,)
        tokens = torch.searchsorted(cdf, (draws * cdf[:, -1])[:, None], right=True)[:, 0]
        if greedy.any():
            tokens = torch.where(torch.from_numpy(greedy).to(logits.device), logp.argmax(dim=-1), tokens)
    return Draw(tokens, logp.gather(1, tokens[:, None])[:, 0], logp)


def _nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """(B, V) probabilities with those outside the smallest set of mass `top_p` set to 0 (Holtzman et al., 2020)."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    # The most probable token has nothing before it, so at least one survives any positive `top_p`.
    ordered = ordered.masked_fill(before >= top_p[:, None], 0.0)
    return torch.zeros_like(probs).scatter_(1, order, ordered)
