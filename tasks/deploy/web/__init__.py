"""Pages that run artifacts in a browser: files of ours (*.js, *.html, *.css), and the runtimes that npm fetches."""
