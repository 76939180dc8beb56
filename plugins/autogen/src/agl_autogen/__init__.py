"""AutoGen AgentChat agents and teams for AGL."""
