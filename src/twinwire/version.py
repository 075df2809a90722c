"""The version of twinwire."""

__version__ = "0.1.0"
