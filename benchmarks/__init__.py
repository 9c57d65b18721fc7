"""What things cost, measured beside their alternatives in one run. Nothing in the project imports from here."""
