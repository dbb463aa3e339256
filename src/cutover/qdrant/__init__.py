"""One Qdrant server: its client, its routes, and how two are compared."""
