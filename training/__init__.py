"""Training of the bundled model, and the texts that Debian packages carry. Not part of the installed package."""
