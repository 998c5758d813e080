"""The site (make docs): Sphinx, whose markup the docstrings speak; MyST for Markdown; Furo, which asks for no network."""

project = "unrender"
copyright = "MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
highlight_language = "text"
suppress_warnings = ["ref.python"]  # some names stand in two packages, such as networks' and lightning_modules' own

html_theme = "furo"
html_title = "unrender"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3
autodoc_default_options = {"members": True, "imported-members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # shapes stand in the signatures of the source; rendered, they bury the names
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
autodoc_inherit_docstrings = False  # Lightning and torch describe their own hooks
