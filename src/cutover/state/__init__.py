"""Where the move is: derived from flags, journal and position, never stored."""
