"""Training examples from tables: rows of queries and texts in one form or another."""
