"""`./scripts/cutover decommission` as a script of its own: `python scripts/decommission.py --site site.yaml`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    launcher = str(Path(__file__).resolve().with_name("cutover"))  # which also sets up the packages
    os.execv(launcher, [launcher, "decommission", *sys.argv[1:]])  # noqa: S606
