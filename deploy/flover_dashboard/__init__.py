"""The Grafana dashboard: its table of panels, the JSON made of it, a picture drawn of its own queries."""
