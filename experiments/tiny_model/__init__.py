"""The tiny base model: a Qwen2 of 0.3M parameters that searches for countdown equations, badly, before any RL."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The Hugging Face folder that is shipped with the project."""
