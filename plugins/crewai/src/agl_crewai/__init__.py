"""CrewAI crews, flows and agents for AGL."""
