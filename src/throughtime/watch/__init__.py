"""Watching a training: what it measures as it goes, and where it broke."""
