"""Finding out what a site is, so that nobody has to type what a server could tell. Everything here reads."""
