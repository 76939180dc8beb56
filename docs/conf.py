"""How Sphinx builds these pages: `make docs`."""

project = "AGL"
author = "the AGL authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "AGL"
exclude_patterns = ["_build", "changelog.d"]
myst_heading_anchors = 3
