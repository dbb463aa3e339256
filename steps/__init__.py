"""The verification suite: step definitions by noun, the lab they run against, and the acceptance report."""
