"""``python -m gateway`` is ``portico``."""

import sys

from gateway.cli import main

sys.exit(main())
