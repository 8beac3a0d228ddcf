"""What all of npdp may use, and what uses nothing of it."""
