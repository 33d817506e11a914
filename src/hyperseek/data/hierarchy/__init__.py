"""Hierarchies as data: edges that are read, pairs of nodes and their splits, and the folder of training data."""
