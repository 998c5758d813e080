"""Sphinx configuration of `make docs`: MyST for Markdown, autodoc for the API, and Furo, which needs no network."""

project = "unrender"
copyright = "MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
highlight_language = "text"
suppress_warnings = ["ref.python"]  # some names exist in two packages, such as networks and lightning_modules

html_theme = "furo"
html_title = "unrender"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3
autodoc_default_options = {"members": True, "imported-members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # tensor shapes make rendered signatures unreadable; they are in the source
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
autodoc_inherit_docstrings = False  # Lightning and torch document their own hooks
