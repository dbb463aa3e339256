"""What every room stands on: errors, journal, guard of writes, HTTP, shell, credentials, waiting."""
