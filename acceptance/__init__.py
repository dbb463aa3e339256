"""From a pytest run of the features to the acceptance report."""
