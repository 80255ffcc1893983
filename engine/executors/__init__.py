"""Executors: where a stage's handler runs, behind one protocol."""
