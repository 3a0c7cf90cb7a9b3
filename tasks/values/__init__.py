"""Single values: read sizes and integers from settings, write counts in messages, keep many names in one buffer."""
