"""Training data, collections and the splits of HiT from any hierarchy."""
