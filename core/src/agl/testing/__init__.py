"""Helpers for tests of agents, plugins and algorithms."""
