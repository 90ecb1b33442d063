"""What runs in the engine process: the fused iteration, its runner, and the process around them."""
