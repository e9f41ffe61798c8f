"""A run's configuration: schema, loading, presets."""
