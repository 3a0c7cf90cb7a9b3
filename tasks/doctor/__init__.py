"""Check the installation: `doctor.examine` tests Python, packages and machine, and names remedies."""
