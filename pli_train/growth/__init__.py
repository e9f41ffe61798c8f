"""Growth: operators, schedules, and initializers of new layers."""
