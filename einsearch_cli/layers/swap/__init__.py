"""Swapping the linear layers of a model: plan it, show it, then do it."""
