"""`./scripts/cutover resize` as a script of its own: `python scripts/resize.py --site site.yaml`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    launcher = str(Path(__file__).resolve().with_name("cutover"))  # which also sets up the packages
    os.execv(launcher, [launcher, "resize", *sys.argv[1:]])  # noqa: S606
