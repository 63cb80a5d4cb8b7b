"""Plans carried out on tensors: the obvious way, the fast ways with their gradients, and operators for compilers."""
