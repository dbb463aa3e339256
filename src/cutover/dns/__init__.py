"""Name servers: what names a guest has, and how they are removed."""
