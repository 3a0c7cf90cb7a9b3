"""App projects that measure an artifact on a phone."""
