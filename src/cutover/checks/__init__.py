"""Checks: one function, one fact, one criterion of the plan; a file for each system."""
