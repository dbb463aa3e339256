"""What is run beside the tool: bench, fault matrix, sabotage, rehearsal."""
