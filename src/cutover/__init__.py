"""Move a Qdrant service behind Nginx to another host, prove it, be able to go back, and give the old guests back.

Everything that a command of this repository does lives in this package; the command line, the features and the
acceptance report are three ways to call it.
"""

__version__ = "0.1.0"
