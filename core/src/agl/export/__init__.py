"""Export and import: a run as files that others read, and files of others as a run.

`docs/transition-schema.md` is the contract of the standard transition.
"""

from agl.export.formats import FORMATS
from agl.export.intake import Imported, import_file
from agl.export.outward import Exported, export_run
from agl.export.schema import FIELDS, SCHEMA_VERSION, arrow_schema

__all__ = ["FIELDS", "FORMATS", "SCHEMA_VERSION", "Exported", "Imported", "arrow_schema", "export_run", "import_file"]
