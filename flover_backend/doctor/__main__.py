"""`python3 -m flover_backend.doctor`, where the command `flover` is not installed: a server's own Python."""

import sys

from flover_backend.doctor.command import main

sys.exit(main())
