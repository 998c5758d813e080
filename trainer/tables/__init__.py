"""The papers' tables: their definitions, the runs of their cells, and the report."""
