"""`make bench-faults`: what overload, silent clients, deadlines and deaths cost the requests that were accepted."""
