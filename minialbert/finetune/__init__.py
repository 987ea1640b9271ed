"""From a trained model to a task. data.py reads labelled texts and pairs."""
