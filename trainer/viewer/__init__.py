"""The local page of ``view``: what it asks (``query``), what answers (``shapes``), how it gets there (``server``)."""
