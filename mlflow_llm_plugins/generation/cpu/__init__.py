"""What makes a step fast on a CPU: attention, linear layers, threads, the allocator."""
