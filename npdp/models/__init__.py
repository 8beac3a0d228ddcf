"""Models of npdp's own, written with its public API, as a user would write them."""
