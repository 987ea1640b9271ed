"""From raw text to a trained model."""
