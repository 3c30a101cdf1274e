"""What a run is. Part of Peripatos."""
