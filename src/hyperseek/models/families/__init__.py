"""Model families: what stands behind the trunk, one file or folder each."""
