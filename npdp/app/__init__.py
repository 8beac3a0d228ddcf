"""The commands of npdp: flags, launching, training, evaluation, saved models."""
