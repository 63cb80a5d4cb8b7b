"""Proxy runs: small networks at equal compute, which rank structures."""
