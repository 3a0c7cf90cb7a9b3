"""Export: `export.export` writes certified artifacts, `backend.load_runtime` runs them; `formats` holds the formats."""
