"""The command line: one module a command, over reports, workloads and the engine."""
