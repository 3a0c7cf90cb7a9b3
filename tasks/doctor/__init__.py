"""`doctor.examine` checks Python, packages and machine, and names a remedy for all that is wrong."""
