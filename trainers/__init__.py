"""What is learnt: students. Part of Peripatos."""
