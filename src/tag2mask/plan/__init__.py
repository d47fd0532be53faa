"""A run as a declared plan: stages that say what decides them, one executor, and a view that holds them to their
word."""
