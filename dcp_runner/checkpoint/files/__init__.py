"""What is on disk: the manifest, tensor files, the checkpoint root, and which process may write there."""
