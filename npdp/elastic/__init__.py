"""What goes wrong, and how training goes on."""
