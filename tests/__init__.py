"""The tests, as a package: an installed distribution ships a `tests` of its own, which would be imported instead."""
