"""Small models trained from scratch on a language of our own: teachers, provers and questions for benchmarks."""
