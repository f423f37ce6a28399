"""Around a training step: averages, histories, whole checkpoints, random states, and when to stop."""
