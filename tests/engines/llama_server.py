"""llama.cpp's own HTTP server, out of the wheel ``xllamacpp``, on 127.0.0.1 until it is killed."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

import xllamacpp

from gateway.demo.engine import params


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--endless", action="store_true", help="no answer stops by itself")
    parser.add_argument("--api-key")
    options = parser.parse_args()
    common = params(options.model, options.port)
    common.model_alias = [options.alias]
    common.n_parallel = options.slots
    common.embedding = options.embedding
    # Answers may then be longer than the context: there is time to break them off.
    common.ctx_shift = not options.embedding
    common.sampling.ignore_eos = options.endless
    if options.api_key:
        common.api_keys = [options.api_key]
    _server = xllamacpp.Server(common)  # serves for as long as it is referred to
    threading.Event().wait()


if __name__ == "__main__":
    main()
