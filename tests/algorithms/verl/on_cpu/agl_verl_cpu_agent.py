"""The SQL agent as a module has it, so that workers in other processes find it."""

from sql_agent import build_graph

graph = build_graph()
