"""Fixtures that steps share: the lab, and the operator who runs commands against it."""
