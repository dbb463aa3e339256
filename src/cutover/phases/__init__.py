"""The steps of the plan, one file each."""
