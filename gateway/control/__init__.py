"""What operators see and steer: metrics and the description of the interface."""
