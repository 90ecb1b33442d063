"""What deploy/install.py does, in parts: options, facts of the host, checks of them, steps, what runs have made."""
