"""What peers agree on: who owns what, rounds, certificates, dissemination."""
