"""Execution of plans on tensors: a reference, fast executors with their gradients, and operators for compilers."""
