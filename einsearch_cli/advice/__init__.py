"""Advice on the structure of a layer: candidates of a size, evidence from studies, and a recommendation; no torch."""
