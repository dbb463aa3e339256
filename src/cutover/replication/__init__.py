"""Bringing one Qdrant up to date with another, and moving the traffic between them."""
