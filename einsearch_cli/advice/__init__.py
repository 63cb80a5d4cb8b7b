"""Which structure to take for a layer: candidates of a size, what studies say of them, and a recommendation; no torch."""
