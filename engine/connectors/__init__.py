"""Connectors: where events come from and where results go, one module a kind."""
