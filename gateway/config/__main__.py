"""The child that reads the configuration for a process with threads (see apart)."""

from __future__ import annotations

import pickle
import sys

from gateway.config.apart import answer

if __name__ == "__main__":
    sys.stdout.buffer.write(answer(pickle.load(sys.stdin.buffer)))  # noqa: S301 - our parent
