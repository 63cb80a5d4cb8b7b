"""The `einsearch` command: one module per subcommand; the only place that prints or exits."""
