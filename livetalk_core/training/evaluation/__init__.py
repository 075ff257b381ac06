"""What measures a model: from frames alone to lip sync, identity, liveliness and picture quality, over any length."""
