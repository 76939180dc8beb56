"""Agents of the OpenAI Agents SDK for AGL."""
