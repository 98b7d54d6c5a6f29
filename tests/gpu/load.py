"""An engine's shape on a real GPU: a parent that listens, and a child that multiplies matrices.

Prints one line of JSON (port, pids) once the child computes; ends when its input is closed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

CHILD = """
import os, torch
a = torch.randn(8192, 8192, device="cuda:0", dtype=torch.float16)
b = torch.randn(8192, 8192, device="cuda:0", dtype=torch.float16)
(a @ b).sum().item()
print("ready", flush=True)
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(50):
        c = a @ b
    torch.cuda.synchronize()
"""


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        if not child.stdout.readline():
            sys.exit("the matrix product did not start")
        port = listener.getsockname()[1]
        print(json.dumps({"port": port, "parent": os.getpid(), "child": child.pid}), flush=True)
        sys.stdin.read()
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main()
