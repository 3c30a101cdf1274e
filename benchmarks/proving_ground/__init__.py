"""Small models trained from scratch on a language of our own: teachers, provers and questions for benchmarks."""

from .build import Ground, Plan, build, tiny

__all__ = ["Ground", "Plan", "build", "tiny"]
