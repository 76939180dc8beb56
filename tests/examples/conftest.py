"""Makes the example's folder importable, as it is when one of its scripts runs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "sql_agent"))
