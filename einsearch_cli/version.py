"""The version, in a separate module so that all layers of the program may import it."""

__version__ = "0.1.0"
