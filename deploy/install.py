#!/usr/bin/env python3
"""Makes a Triton server serve this backend, checks first whether it fits, and takes it out again (`--remove`).

Run it with the Python of the server's stub: `python3 deploy/install.py --model-repository /models`. Needs the standard
library of Python 3.9 alone; what it does is in the package flover_install beside it, what it knows of hosts in
flover_backend/host, which is as frugal.
"""

import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from flover_install.command import main  # noqa: E402

if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # undo what was begun, as for a Ctrl-C
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
