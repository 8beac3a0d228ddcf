"""Reports: the console, the metrics file, tables, pictures, and the machine of a measurement."""
