"""Portico: the front door for self-hosted inference."""

__version__ = "0.1.0"
