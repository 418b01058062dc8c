"""What lives on a machine: a peer, its home folder and what it saves there."""
