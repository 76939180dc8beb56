import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "sql_agent"
sys.path.insert(0, str(EXAMPLE))  # the example's scripts import each other by plain names
