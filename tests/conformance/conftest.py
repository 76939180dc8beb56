"""Makes the toy framework, its plugins and the tiny policy importable, as an installed package is."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("quill", "tiny")]
