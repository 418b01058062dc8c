"""What all peers of a run share, and how it is read from a manifest."""
