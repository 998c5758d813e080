"""The local page of ``view``: query parameters (``params``), request handlers (``handlers``), HTTP server (``server``)."""
