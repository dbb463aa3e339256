"""The lab: real servers where they can be had, stand-ins where they cannot. Nothing of it is imported by the tool."""
