"""Model families, one file or folder each: what is built behind a trunk."""
