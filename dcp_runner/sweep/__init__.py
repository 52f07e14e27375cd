"""A sweep on disk and the state of its jobs: recorded on submission, readable from any shell afterwards."""
