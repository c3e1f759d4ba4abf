"""How the embedded canonical head is made; ``python -m zero1toa.head.build`` runs it."""
