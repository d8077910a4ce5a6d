"""Other people's libraries, each in one file: what they need to know to work on these layers."""
