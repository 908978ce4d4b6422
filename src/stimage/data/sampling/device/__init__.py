"""Windows cut on the device where a model is trained."""
