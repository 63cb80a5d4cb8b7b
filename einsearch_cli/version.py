"""The version; in a module of its own, so that all layers of the program may import it."""

__version__ = "0.1.0"
