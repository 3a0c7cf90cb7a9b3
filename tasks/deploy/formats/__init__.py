"""The export formats, a file each; `tasks.deploy.backend.BACKENDS` names them and imports one when it is used."""
