"""The report of a run: one HTML file to look at and send around, and the learning curve as a PNG beside it.

The page needs nothing but itself: no network, no script, no font. All text of agents and models is escaped.
"""

from __future__ import annotations

import asyncio
import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agl.errors import ConfigError
from agl.store.opening import StoreSpec

__all__ = ["write_report"]


def write_report(store: StoreSpec, run_id: str, path: str | Path | None = None, *, by: str = "kind") -> Path:
    """Write a run's report as one HTML file, and its learning curve as `<same name>.png`.

    Works from any thread, with or without a running event loop, and on a run that is not finished.

    Args:
        store: the SQLite file, or whatever else `store=` of the Trainer takes.
        path: of the HTML file; `report.html` in the run's folder unless told.
        by: field of the tasks by whose values before and after are compared.

    Returns:
        The path of the HTML file.

    Raises:
        ConfigError: Jinja or Matplotlib is missing.
        NotFoundError: no such store or run.
        DataError: the run's files cannot be read.
    """
    _check_extra()
    from agl.report.data import load
    from agl.report.page import render
    from agl.report.plot import save_png

    with ThreadPoolExecutor(1) as pool:  # a thread has no running loop, whatever the caller has
        data = pool.submit(lambda: asyncio.run(load(store, run_id, by))).result()
    target = Path(path) if path is not None else data.directory / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(data), encoding="utf-8")
    save_png(data, target.with_suffix(".png"))
    return target


def _check_extra() -> None:
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f'the report needs `{name}`, which cannot be imported ({error}): pip install "agl-core[report]"') from error
