"""Who is asked: engines, teachers, the prover. Part of Peripatos."""
