"""LangGraph and LangChain agents for AGL."""
