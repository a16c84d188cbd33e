"""HILBERT: one embedding per person from voice and words, and honest predictions from it."""

__version__ = "0.1.0"
