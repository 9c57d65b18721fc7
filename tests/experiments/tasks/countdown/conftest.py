"""Turn off Hypothesis' deadline: on a shared machine the time of an example says nothing."""

from hypothesis import settings

settings.register_profile("countdown", deadline=None)
settings.load_profile("countdown")
