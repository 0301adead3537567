"""Writers of artifacts: one module or folder per format."""
