"""The network, how its parameters are cut into slices, and what goes in and out of it."""
