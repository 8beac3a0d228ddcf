"""What goes wrong on purpose, to see how training goes on."""
