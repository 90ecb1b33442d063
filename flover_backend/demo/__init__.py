"""`flover demo`: questions that arrive at random are answered by one fused batch, and the terminal shows it."""
