"""Everything that can be wrong with a run before it starts; each check returns messages that say what to do."""
