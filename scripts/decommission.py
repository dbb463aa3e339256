"""`decommission` as a script of its own: `python scripts/decommission.py --site site.yaml`."""

import sys

from cutover.cli import app

if __name__ == "__main__":
    app(["decommission", *sys.argv[1:]])
