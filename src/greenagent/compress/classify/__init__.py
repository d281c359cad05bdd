"""Models that choose one of the task's tools instead of writing an answer: encoders, and tiny students."""
