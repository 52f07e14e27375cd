"""A sweep on disk and what becomes of its jobs: recorded when submitted, looked at from any shell afterwards."""
