"""`decommission` as a script of its own, for a host that has only this folder: `python scripts/decommission.py --site site.yaml`."""

import sys

from cutover.cli import app

if __name__ == "__main__":
    app(["decommission", *sys.argv[1:]])
