"""The gate in Nginx: holds, switches and records writes."""
