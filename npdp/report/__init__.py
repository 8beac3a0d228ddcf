"""What people look at: the console and the metrics file."""
