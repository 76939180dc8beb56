"""Imports CrewAI where its warnings are no errors: its package `crewai.rag` refuses what Python's own import does."""

import pytest

pytest.importorskip("crewai")
