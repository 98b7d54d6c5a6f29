"""The configuration: read, checked and merged once, then only values.

A file is turned into a tree (document), the short forms are laid over it (overlay), variables and
secret files are filled in (expand, secret_files), the model checks it (model, fields, units,
addresses, validate), entries are held against each other (crosscheck, keyring) and the values are
made (build, values). ``load`` tells that story; ``dump`` shows its end."""

from __future__ import annotations

from gateway.core.gpus import Gpus

from .dump import dump
from .faults import ConfigError
from .load import load
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
    "dump",
    "load",
]
