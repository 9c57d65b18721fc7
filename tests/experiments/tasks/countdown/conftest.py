"""Hypothesis on a shared machine: how long an example takes says nothing."""

from hypothesis import settings

settings.register_profile("countdown", deadline=None)
settings.load_profile("countdown")
