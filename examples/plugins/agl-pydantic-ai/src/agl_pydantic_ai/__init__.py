"""Pydantic AI agents for AGL."""
