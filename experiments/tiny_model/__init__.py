"""The tiny base model: a Qwen2 of 0.3M parameters that writes imperfect countdown searches, before any RL."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The Hugging Face folder shipped with the project."""
