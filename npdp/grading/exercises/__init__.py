"""The exercises: for each a module with its CHECKS, and in ../starters the file that a student begins with."""
