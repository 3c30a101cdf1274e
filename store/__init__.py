"""What is kept: the nouns and their database. Part of Peripatos."""
