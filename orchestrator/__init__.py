"""In what order: search, sift, the run, the command line. Part of Peripatos."""
