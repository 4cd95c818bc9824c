"""Device meshes and the one table of sharding rules."""
