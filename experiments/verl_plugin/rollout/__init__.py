"""How prompts become scored responses: the rollout server, its samplers, and the agent loops."""
