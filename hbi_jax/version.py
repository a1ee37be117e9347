"""The version, in a module that imports nothing: it can be read before anything is installed."""

__version__ = "0.1.0"
