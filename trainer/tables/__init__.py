"""The papers' tables: their definitions, the runs they need, and the report."""
