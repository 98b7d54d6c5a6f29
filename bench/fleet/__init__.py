"""The simulated fleet: what a router makes of engines with caches and queues, over real HTTP."""
