"""Workloads: load scenarios with their oracles, and the experiments run over them."""
