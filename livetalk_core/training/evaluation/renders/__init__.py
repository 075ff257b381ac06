"""Judges rendered videos by any tool, from their frames and sound alone."""
