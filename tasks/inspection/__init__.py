"""Looking at data before it is trained on: `actions.run_action` checks, counts, draws and converts it."""
