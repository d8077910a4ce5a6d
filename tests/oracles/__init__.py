"""What the tests judge by: recurrences written by hand, models to try them on, and mutants."""
