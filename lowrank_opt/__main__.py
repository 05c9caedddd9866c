"""``python -m lowrank_opt`` is the command ``lowrank-opt``."""

from __future__ import annotations

import sys

from lowrank_opt.cli import main

sys.exit(main())
