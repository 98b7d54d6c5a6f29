"""The configuration: read, checked and merged once, then only values.

A file is turned into a tree (document), the short forms are laid over it (overlay), variables and
secret files are filled in (expand, secret_files), the model checks it (model, fields, units,
addresses, validate), entries are held against each other (crosscheck, keyring) and the values are
made (build, values). ``load`` tells that story, ``load_apart`` has it told by a child, and ``dump``
shows its end. Only the values come with this package: the checker is imported where it is used."""

from __future__ import annotations

from gateway.core.gpus import Gpus

from .apart import load_apart
from .faults import ConfigError
from .values import LOG_FORMATS, LOG_LEVELS, Config, KeyEntry, Overrides, Server

__all__ = [
    "LOG_FORMATS",
    "LOG_LEVELS",
    "Config",
    "ConfigError",
    "Gpus",
    "KeyEntry",
    "Overrides",
    "Server",
    "load_apart",
]
