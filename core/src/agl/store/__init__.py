"""Store: runs, resources, rollouts, attempts, spans and rewards, durable before they are acknowledged."""
