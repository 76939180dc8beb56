"""Best-of-n distillation: an algorithm for AGL that imitates the best of an agent's own rollouts."""
