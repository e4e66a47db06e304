"""The Shapes dataset: pictures of simple shapes, and texts whose truth is known."""
