"""Attribution of predictions to the parts of a model."""
