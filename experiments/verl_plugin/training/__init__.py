"""The trainer, the engines of its workers, and the schedule of the sampling temperature."""
