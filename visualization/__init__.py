"""Images, mesh files and the papers' figures."""
