"""The facts of one site: what ``site.yaml`` may say, and how it is read."""
