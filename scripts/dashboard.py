#!/usr/bin/env python3
"""Writes deploy/grafana/flover.json from the table of panels in deploy/flover_dashboard. `make docs` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "deploy"))

from flover_dashboard.build import text  # noqa: E402

TARGET = REPOSITORY / "deploy" / "grafana" / "flover.json"

if __name__ == "__main__":
    TARGET.write_text(text())
    print(f"wrote {TARGET.relative_to(REPOSITORY)}")
