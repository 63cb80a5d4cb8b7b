"""Compressing a trained model by what its layers are given: second moments of inputs, and a budget for all layers."""
