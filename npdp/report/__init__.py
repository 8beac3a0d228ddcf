"""What people look at: the console, the metrics file, tables, pictures, and what they were measured on."""
