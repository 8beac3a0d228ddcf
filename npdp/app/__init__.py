"""What a command does: flags, launch, train, evaluate, saved models."""
