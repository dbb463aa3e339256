"""`decommission` as a script of its own: `python scripts/decommission.py --site site.yaml`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from cutover.cli import app

if __name__ == "__main__":
    app(["decommission", *sys.argv[1:]])
