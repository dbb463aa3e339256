"""The pytest plugin of the suite: loaded early, so that its options are known before any file is collected."""
