"""Layers of experts: routing, sparse execution, and the loss that keeps the load balanced."""
