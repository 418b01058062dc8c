"""What people watch: journals folded into one view of the swarm, and the screens that show it."""
