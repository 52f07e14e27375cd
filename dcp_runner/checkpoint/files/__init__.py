"""What lies on disk: the manifest, tensor files, the folder of the checkpoints, and who may write there."""
