"""Reports: figures derived from result files, and one module a format to show them."""
